"use strict";
// A SuperTokens client of one file, so that everything it does can be read here.
// Real applications use SuperTokens' own SDK; it speaks the same protocol (FDI).
//
// The tokens are in HttpOnly cookies that no script sees. What a script may know of
// the session comes in the `front-token` header: base64 of {uid, ate, up}.

const byId = (id) => document.getElementById(id);
const FRONT_TOKEN = "front-token";
const ANTI_CSRF = "anti-csrf";

// --- the session ----------------------------------------------------------------

function session() {
  const token = localStorage.getItem(FRONT_TOKEN);
  if (!token) return null;
  try {
    const bytes = Uint8Array.from(atob(token), (c) => c.charCodeAt(0));
    const { uid, ate, up } = JSON.parse(new TextDecoder().decode(bytes));
    return { userId: uid, until: new Date(ate), payload: up };
  } catch {
    localStorage.removeItem(FRONT_TOKEN);
    return null;
  }
}

function keepTokens(headers) {
  const front = headers.get(FRONT_TOKEN);
  if (front === "remove") {
    localStorage.removeItem(FRONT_TOKEN);
    localStorage.removeItem(ANTI_CSRF);
  } else if (front) {
    localStorage.setItem(FRONT_TOKEN, front);
  }
  const antiCsrf = headers.get(ANTI_CSRF);
  if (antiCsrf) localStorage.setItem(ANTI_CSRF, antiCsrf);
}

async function send(method, path, { body, extra } = {}) {
  // `rid` is no secret: a page of another site can't send it without a preflight.
  const headers = new Headers({ "st-auth-mode": "cookie", rid: "session", ...extra });
  const antiCsrf = localStorage.getItem(ANTI_CSRF);
  if (antiCsrf) headers.set(ANTI_CSRF, antiCsrf);
  if (body !== undefined) headers.set("content-type", "application/json");
  const response = await fetch(path, {
    method, headers, credentials: "same-origin",
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  keepTokens(response.headers);
  const text = await response.text();
  let data = null;
  try { data = JSON.parse(text); } catch { /* not JSON; shown as it is */ }
  return { response, text, data };
}

// One refresh at a time over all tabs. A refresh token is good for one use: two
// tabs that use the same one look like a theft, and the session is ended.
function refresh() {
  const before = localStorage.getItem(FRONT_TOKEN);
  return navigator.locks.request("refresh", async () => {
    const now = localStorage.getItem(FRONT_TOKEN);
    if (now !== before) return now !== null;
    return (await send("POST", "/auth/session/refresh")).response.ok;
  });
}

// Sends, and when the access token has expired: refreshes and sends once more.
async function call(method, path, options) {
  const answer = await send(method, path, options);
  const expired = answer.response.status === 401
    && answer.data?.message === "try refresh token";
  if (!expired || !session() || !(await refresh())) return answer;
  return send(method, path, options);
}

// --- what is seen -----------------------------------------------------------------

function notify(text, bad = false) {
  const notice = byId("notice");
  notice.textContent = text;
  notice.classList.toggle("bad", bad);
  notice.hidden = !text;
  if (text) reveal(notice);
}

function draw() {
  const now = session();
  byId("who").textContent = now ? "signed in" : "signed out";
  const resetting = location.pathname === "/account/reset-password";
  byId("reset").hidden = !resetting;
  byId("enter").hidden = Boolean(now) || resetting;
  byId("session").hidden = !now || resetting;
  if (!now) return;
  byId("user").textContent = now.userId;
  byId("roles").textContent = (now.payload["st-role"]?.v ?? []).join(", ") || "none";
  byId("until").textContent = now.until.toLocaleTimeString();
}

const MEANINGS = {
  401: "No valid session: sign in first.",
  403: "The session is valid, but lacks what this route requires.",
  404: "No route matches.",
  502: "The service behind the gateway failed.",
  503: "The session can't be checked, because the core can't be reached.",
  504: "The service behind the gateway is too slow.",
};

function show(method, path, { response, text, data }) {
  byId("answer").hidden = false;
  const status = document.createElement("span");
  status.className = response.ok ? "good" : "bad";
  status.textContent = `${response.status} ${response.statusText}`;
  byId("line").replaceChildren(`${method} ${path} → `, status);
  byId("meaning").textContent = MEANINGS[response.status] ?? "";
  byId("body").textContent = data === null ? text : JSON.stringify(data, null, 2);

  const headers = Array.isArray(data?.headers) ? data.headers : [];
  byId("received").hidden = headers.length === 0;
  byId("received").querySelector("tbody").replaceChildren(...headers.map(([name, value]) => {
    const row = document.createElement("tr");
    row.classList.toggle("identity", /^x-(user|auth|session|tenant)-/i.test(name));
    for (const text of [name, value]) {
      row.appendChild(document.createElement("td")).textContent = text;
    }
    return row;
  }));
  if (headers.length) {
    byId("body").textContent = JSON.stringify({ ...data, headers: "see above" }, null, 2);
  }
}

// On a phone, the answer is below the buttons, out of sight.
function reveal(section) {
  const { top, bottom } = section.getBoundingClientRect();
  if (top < 0 || Math.min(bottom, top + 160) > innerHeight) {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    section.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
  }
}

// Runs a handler with its button off, and says what went wrong.
async function during(button, act) {
  notify("");
  button.disabled = true;
  try {
    await act();
  } catch (error) {
    notify(`The gateway can't be reached: ${error.message}`, true);
  } finally {
    button.disabled = false;
    draw();
  }
}

// --- what can be done -------------------------------------------------------------

const field = (id, value) => ({ id, value });

// Business failures are 200 with a `status` that isn't OK; everything else is an error.
function problem({ response, data }) {
  if (response.ok && data?.status === "OK") return null;
  switch (data?.status) {
    case "FIELD_ERROR": return data.formFields.map((f) => `${f.id}: ${f.error}`).join(" · ");
    case "WRONG_CREDENTIALS_ERROR": return "E-mail and password don't belong together.";
    case "RESET_PASSWORD_INVALID_TOKEN_ERROR":
    case "EMAIL_VERIFICATION_INVALID_TOKEN_ERROR": return "The link is used up or too old.";
    case "EMAIL_ALREADY_VERIFIED_ERROR": return "This address is verified already.";
    default: {
      const said = data?.reason ?? data?.message ?? data?.title ?? data?.status;
      return `${response.status}: ${said ?? response.statusText}`;
    }
  }
}

async function enter(act, email, password) {
  if (act === "forgot") {
    if (!email) return notify("Type your e-mail address first.", true);
    const failed = problem(await send("POST", "/auth/user/password/reset/token", {
      body: { formFields: [field("email", email)] },
    }));
    return notify(failed ?? "If the address is known, a link is on the console and in .gateway/outbox/.", Boolean(failed));
  }
  const failed = problem(await send("POST", `/auth/${act}`, {
    body: { formFields: [field("email", email), field("password", password)] },
  }));
  notify(failed ?? "", Boolean(failed));
}

const ACTS = {
  async signout() {
    const failed = problem(await call("POST", "/auth/signout"));
    notify(failed ?? "Signed out.", Boolean(failed));
  },
  async refresh() {
    const done = await refresh();
    notify(done ? "The session has new tokens." : "The session is over: sign in again.", !done);
  },
  async verify() {
    const failed = problem(await call("POST", "/auth/user/email/verify/token"));
    notify(failed ?? "A link is on the console and in .gateway/outbox/.", Boolean(failed));
  },
  async admin() {
    const { response, data } = await call("POST", "/demo/admin-role");
    if (!response.ok) {
      return notify(`${response.status}: ${data?.message ?? data?.title ?? response.statusText}`, true);
    }
    // The claims of the session have changed; its next token has them.
    const done = await refresh();
    notify(done ? `You have the role ${data.role}.` : "The session is over: sign in again.", !done);
  },
};

byId("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  const { email, password } = event.target.elements;
  during(event.submitter, async () => {
    await enter(event.submitter.value, email.value, password.value);
    if (session()) password.value = "";
  });
});

byId("reset").addEventListener("submit", (event) => {
  event.preventDefault();
  during(event.submitter, async () => {
    const failed = problem(await send("POST", "/auth/user/password/reset", {
      body: {
        method: "token", token: linkToken,
        formFields: [field("password", event.target.elements.password.value)],
      },
    }));
    if (!failed) history.replaceState(null, "", "/");
    notify(failed ?? "The password is set: sign in with it.", Boolean(failed));
  });
});

for (const button of document.querySelectorAll("[data-do]")) {
  button.addEventListener("click", () => during(button, ACTS[button.dataset.do]));
}

for (const button of document.querySelectorAll("[data-call]")) {
  button.addEventListener("click", () => during(button, async () => {
    const [method, path] = button.dataset.call.split(" ");
    const body = method === "POST" ? { sku: "mug", quantity: 1 } : undefined;
    const extra = byId("forge").checked ? { "X-User-Id": "mallory" } : {};
    show(method, path, await call(method, path, { body, extra }));
    reveal(byId("answer"));
  }));
}

// A link from a mail: take its token out of the address bar, then use it.
const linkToken = new URLSearchParams(location.search).get("token");

async function start() {
  if (linkToken) history.replaceState(null, "", location.pathname);
  if (linkToken && location.pathname === "/account/verify-email") {
    const failed = problem(await send("POST", "/auth/user/email/verify", {
      body: { method: "token", token: linkToken },
    }));
    history.replaceState(null, "", "/");
    notify(failed ?? "The address is verified.", Boolean(failed));
  }
}

draw();
start().catch((error) => notify(`The gateway can't be reached: ${error.message}`, true)).finally(draw);
