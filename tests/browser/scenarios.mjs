// The scenarios, each in a browser profile and with users of its own. Nothing waits for
// time: a scenario waits for a reply, an element or an event, and TIMEOUT_MS only ends
// one that hangs.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { chromium } from "playwright-core";

const RIG = JSON.parse(process.env.RIG);
const { site, api, mode } = RIG;
const IN_COOKIES = mode === "cookie";
const TIMEOUT_MS = 120_000;
const PASSWORD = "passw0rd-of-tests";

const scenarios = [];
const scenario = (name, run, { quick = false, when = true } = {}) =>
  when && scenarios.push({ name, run, quick });

// --- what a scenario uses ---------------------------------------------------------

const newEmail = () => `ann-${randomBytes(6).toString("hex")}@example.com`;

async function control(path, body) {
  const response = await fetch(`${RIG.control}/${path}`, { method: "POST", body });
  const text = await response.text();
  assert.equal(response.status, 200, text);
  return text;
}

const mail = async (kind, to) =>
  JSON.parse(await control("mail", JSON.stringify({ kind, to })));

// Let the access token have expired, as the service and the frontend see it.
async function expire(context) {
  for (const cookie of await context.cookies()) {
    if (cookie.name === "sAccessToken" || cookie.name === "st-access-token") {
      cookie.value = await control("expire", cookie.value);
    } else if (cookie.name === "sFrontToken") {
      const front = JSON.parse(atob(decodeURIComponent(cookie.value)));
      cookie.value = btoa(JSON.stringify({ ...front, ate: Date.now() - 3_600_000 }));
    } else {
      continue;
    }
    await context.addCookies([cookie]);
  }
}

// Counts the calls of a path that the pages of a context make, without preflights.
function count(context, path) {
  const calls = { number: 0 };
  context.on("request", (request) => {
    const isCall = new URL(request.url()).pathname === path;
    if (isCall && request.method() !== "OPTIONS") calls.number += 1;
  });
  return calls;
}

async function open(context, page = "webjs") {
  const tab = await context.newPage();
  await tab.goto(`${site}/${page}/`);
  await tab.waitForFunction(() => window.st !== undefined);
  return tab;
}

const enter = (tab, how, email, password = PASSWORD) =>
  tab.evaluate(
    ([how, fields]) => window.st.EmailPassword[how](window.st.fields(fields)),
    [how, { email, password }],
  );

async function signUp(context) {
  const tab = await open(context);
  const email = newEmail();
  const result = await enter(tab, "signUp", email);
  assert.equal(result.status, "OK");
  return { tab, email, id: result.user.id };
}

const call = (tab, path, options) =>
  tab.evaluate(([path, options]) => window.st.call(path, options), [path, options]);

const exists = (tab) => tab.evaluate(() => window.st.Session.doesSessionExist());

// --- sign-in ------------------------------------------------------------------------

scenario(
  "sign up, call, sign out, sign in",
  async (context) => {
    const { tab, email, id } = await signUp(context);
    const reply = await call(tab, "/whoami/me");
    assert.equal(reply.status, 200);
    assert.equal(reply.body.user_id, id);
    const sent = { method: "POST", body: '{"sku": "mug"}' };
    assert.equal((await call(tab, "/orders", sent)).status, 201);
    await tab.evaluate(() => window.st.Session.signOut());
    assert.equal(await exists(tab), false);
    assert.equal((await call(tab, "/orders")).status, 401);
    assert.equal((await enter(tab, "signIn", email, "wrong-passw0rd")).status, "WRONG_CREDENTIALS_ERROR");
    assert.equal((await enter(tab, "signIn", email)).status, "OK");
    assert.equal((await call(tab, "/orders")).body.orders.length, 1);
  },
  { quick: true },
);

scenario(
  "tokens are where the mode puts them",
  async (context) => {
    const { tab } = await signUp(context);
    const names = (await context.cookies()).map(({ name }) => name);
    assert.equal(names.includes("sAccessToken"), IN_COOKIES);
    assert.equal(names.includes("st-access-token"), !IN_COOKIES);
    const { body } = await call(tab, "/whoami/me");
    const fields = body.headers.map(([name]) => name.toLowerCase());
    assert.ok(!fields.includes("authorization") && !fields.includes("cookie"));
  },
  { quick: true },
);

scenario(
  "the pre-built UI signs up, out and in",
  async (context) => {
    const tab = await context.newPage();
    const email = newEmail();
    // Without a session, a protected page leads to the form.
    await tab.goto(`${site}/home`);
    await tab.waitForURL((url) => url.pathname === "/auth/" || url.pathname === "/auth");
    await tab.getByText("Sign Up", { exact: true }).click();
    const enterForm = async () => {
      await tab.locator("input[name=email]").fill(email);
      await tab.locator("input[name=password]").fill(PASSWORD);
      await tab.locator("button[type=submit]").click();
      await tab.locator("#home").waitFor();
    };
    await enterForm();
    const id = await tab.locator("#user").textContent();
    await tab.locator("#out").click();
    await tab.waitForURL((url) => url.pathname.startsWith("/auth"));
    await enterForm();
    assert.equal(await tab.locator("#user").textContent(), id);
    assert.equal((await call(tab, "/whoami/me")).body.user_id, id);
  },
  { quick: true },
);

scenario("supertokens-website alone", async (context) => {
  const tab = await open(context, "website");
  const body = await tab.evaluate(
    (fields) => JSON.stringify(window.st.fields(fields)),
    { email: newEmail(), password: PASSWORD },
  );
  const headers = { "content-type": "application/json", rid: "emailpassword" };
  const reply = await call(tab, "/auth/signup", { method: "POST", body, headers });
  assert.equal(reply.body.status, "OK");
  const refreshes = count(context, "/auth/session/refresh");
  await expire(context);
  assert.equal((await call(tab, "/whoami/me")).body.user_id, reply.body.user.id);
  assert.equal(refreshes.number, 1);
  await tab.evaluate(() => window.st.Session.signOut());
  assert.equal(await exists(tab), false);
});

scenario(
  "plain fetch, with tokens in header fields",
  async (context) => {
    const tab = await open(context, "plain");
    const result = await tab.evaluate(
      async ([api, fields]) => {
        const signUp = await fetch(`${api}/auth/signup`, {
          method: "POST",
          headers: { "content-type": "application/json", "st-auth-mode": "header" },
          body: JSON.stringify(window.st.fields(fields)),
        });
        const bearer = (response, name) => ({
          authorization: `Bearer ${response.headers.get(name)}`,
        });
        const refresh = await fetch(`${api}/auth/session/refresh`, {
          method: "POST",
          headers: { ...bearer(signUp, "st-refresh-token"), "st-auth-mode": "header" },
        });
        const me = await fetch(`${api}/whoami/me`, {
          headers: bearer(refresh, "st-access-token"),
        });
        return [signUp.status, refresh.status, me.status];
      },
      [api, { email: newEmail(), password: PASSWORD }],
    );
    assert.deepEqual(result, [200, 200, 200]);
  },
  { when: !IN_COOKIES },
);

// --- expiry ---------------------------------------------------------------------------

scenario(
  "eight parallel calls at expiry refresh once",
  async (context) => {
    const { tab, id } = await signUp(context);
    const refreshes = count(context, "/auth/session/refresh");
    await expire(context);
    const replies = await tab.evaluate(() =>
      Promise.all(Array.from({ length: 8 }, (_, n) => window.st.call(`/whoami/${n}`))),
    );
    assert.deepEqual(replies.map(({ body }) => body.user_id), Array(8).fill(id));
    assert.equal(refreshes.number, 1);
  },
  { quick: true },
);

scenario(
  "two tabs at expiry refresh once",
  async (context) => {
    const { tab, id } = await signUp(context);
    const other = await open(context);
    const refreshes = count(context, "/auth/session/refresh");
    await expire(context);
    const calls = () =>
      Promise.all(Array.from({ length: 4 }, (_, n) => window.st.call(`/whoami/${n}`)));
    const replies = await Promise.all([tab.evaluate(calls), other.evaluate(calls)]);
    assert.deepEqual(replies.flat().map(({ body }) => body.user_id), Array(8).fill(id));
    assert.equal(refreshes.number, 1);
  },
  { quick: true },
);

scenario("an upload at expiry is sent again", async (context) => {
  const { tab } = await signUp(context);
  await expire(context);
  const size = 700_000;
  const reply = await call(tab, "/whoami/upload", { method: "POST", body: "x".repeat(size) });
  assert.equal(reply.status, 200);
  assert.equal(reply.body.body_bytes, size);
});

scenario("server-sent events need a fresh session", async (context) => {
  const { tab } = await signUp(context);
  const events = () =>
    tab.evaluate(() => window.st.events("/whoami/events?count=2&interval_ms=0", 2));
  if (!IN_COOKIES) {
    // An EventSource can't send a header field.
    assert.equal(await events(), "error");
    return;
  }
  assert.deepEqual(await events(), ["tick 1 of 2", "tick 2 of 2"]);
  await expire(context);
  assert.equal(await events(), "error");
  assert.equal(await tab.evaluate(() => window.st.Session.attemptRefreshingSession()), true);
  assert.deepEqual(await events(), ["tick 1 of 2", "tick 2 of 2"]);
});

scenario("a WebSocket needs a fresh session", async (context) => {
  const { tab } = await signUp(context);
  const echo = () => tab.evaluate(() => window.st.echo("/whoami/ws", "hello"));
  if (!IN_COOKIES) {
    // Nor can a WebSocket. The handshake is refused, which scripts see as 1006.
    assert.equal(await echo(), 1006);
    return;
  }
  assert.equal(await echo(), "hello");
  await expire(context);
  assert.equal(await echo(), 1006);
  assert.equal(await tab.evaluate(() => window.st.Session.attemptRefreshingSession()), true);
  assert.equal(await echo(), "hello");
});

// --- the end of a session ---------------------------------------------------------------

scenario(
  "a sign-out in another tab ends the session in this one",
  async (context) => {
    const { tab } = await signUp(context);
    const other = await open(context);
    assert.equal(await exists(other), true);
    await other.evaluate(() => window.st.Session.signOut());
    assert.equal((await call(tab, "/orders")).status, 401);
    assert.equal(await exists(tab), false);
  },
  { quick: true },
);

scenario(
  "a sign-out in another tab closes streams and sockets",
  async (context) => {
    const { tab } = await signUp(context);
    await tab.evaluate(async () => {
      await window.st.openEvents("/whoami/events?count=1000&interval_ms=60000");
      await window.st.openSocket("/whoami/ws");
    });
    const other = await open(context);
    await other.evaluate(() => window.st.Session.signOut());
    assert.equal(await tab.evaluate(() => window.eventsClosed), "ended");
    assert.equal(await tab.evaluate(() => window.socketClosed), 4401);
  },
  { when: IN_COOKIES },
);

// --- claims, mails ------------------------------------------------------------------------

scenario("a missing role is 403, and a new session has it", async (context) => {
  const { tab, email, id } = await signUp(context);
  const refused = await call(tab, "/admin");
  assert.equal(refused.status, 403);
  assert.equal(refused.body.claimValidationErrors[0].id, "st-role");
  assert.equal(await exists(tab), true);
  await control("role", JSON.stringify({ userId: id, role: "admin" }));
  await tab.evaluate(() => window.st.Session.signOut());
  await enter(tab, "signIn", email);
  assert.equal((await call(tab, "/admin")).status, 200);
});

scenario("an address is verified by the link in the mail", async (context) => {
  const { tab, email } = await signUp(context);
  const refused = await call(tab, "/verified");
  assert.equal(refused.body.claimValidationErrors[0].id, "st-ev");
  const sent = await tab.evaluate(() => window.st.EmailVerification.sendVerificationEmail());
  assert.equal(sent.status, "OK");
  const [link] = await mail("email_verification", email);
  await tab.goto(link.replace("/auth/", "/webjs/"));
  const result = await tab.evaluate(() => window.st.EmailVerification.verifyEmail());
  assert.equal(result.status, "OK");
  assert.equal((await call(tab, "/verified")).status, 200);
});

scenario("a password is reset by the link in the mail", async (context) => {
  const { tab, email } = await signUp(context);
  await tab.evaluate(() => window.st.Session.signOut());
  const sent = await tab.evaluate(
    (email) => window.st.EmailPassword.sendPasswordResetEmail(window.st.fields({ email })),
    email,
  );
  assert.equal(sent.status, "OK");
  const [link] = await mail("password_reset", email);
  // In the pre-built UI, as a user would.
  await tab.goto(link);
  await tab.locator("input[name=password]").fill("an0ther-password");
  await tab.locator("input[name=confirm-password]").fill("an0ther-password");
  await tab.locator("button[type=submit]").click();
  await tab.getByText("Success!").waitFor();
  const again = await open(context);
  assert.equal((await enter(again, "signIn", email)).status, "WRONG_CREDENTIALS_ERROR");
  assert.equal((await enter(again, "signIn", email, "an0ther-password")).status, "OK");
});

async function withoutPassword(context) {
  const tab = await open(context);
  const email = newEmail();
  const sent = await tab.evaluate(
    (email) => window.st.Passwordless.createCode({ email }),
    email,
  );
  assert.equal(sent.status, "OK");
  const [link, code] = await mail("passwordless", email);
  return { tab, link, code };
}

scenario("a code signs in without a password", async (context) => {
  const { tab, code } = await withoutPassword(context);
  const result = await tab.evaluate(
    (userInputCode) => window.st.Passwordless.consumeCode({ userInputCode }),
    code,
  );
  assert.equal(result.status, "OK");
  assert.equal((await call(tab, "/orders")).status, 200);
});

scenario("a link signs in without a password", async (context) => {
  const { tab, link } = await withoutPassword(context);
  await tab.goto(link.replace("/auth/", "/webjs/"));
  const result = await tab.evaluate(() => window.st.Passwordless.consumeCode());
  assert.equal(result.status, "OK");
  assert.equal((await call(tab, "/orders")).status, 200);
});

// --- the demo page ---------------------------------------------------------------------------

scenario(
  "the demo page on a phone",
  async (context) => {
    const page = await context.newPage();
    await page.setViewportSize({ width: 375, height: 667 });
    await page.emulateMedia({ reducedMotion: "reduce" });
    await page.goto(`${api}/`);
    const notice = page.locator("#notice");
    const colour = () => notice.evaluate((shown) => getComputedStyle(shown).backgroundColor);
    await page.locator("[name=email]").fill(newEmail());
    await page.locator("#enter [name=password]").fill(PASSWORD);
    await page.locator("button[value=signin]").click();
    await notice.getByText("don't belong together").waitFor();
    const bad = await colour();
    await page.locator("button[value=signup]").click();
    // The role is in the session at once.
    await page.locator("[data-do=admin]").click();
    await notice.getByText("You have the role admin.").waitFor();
    assert.notEqual(await colour(), bad);
    assert.equal(await page.locator("#roles").textContent(), "admin");
    // The answer is seen without scrolling.
    await page.locator("[data-call='GET /whoami/admin']").click();
    const line = page.locator("#line");
    await line.getByText("200").waitFor();
    const { y, height } = await line.boundingBox();
    assert.ok(y >= 0 && y + height <= 667, `the answer is at ${y}`);
  },
  { when: IN_COOKIES },
);

// --- what the browser says -------------------------------------------------------------------

scenario("the browser names a field that the policy doesn't allow", async (context) => {
  const tab = await open(context, "plain");
  const said = [];
  tab.on("console", (message) => said.push(message.text()));
  const isRefused = (options) =>
    tab.evaluate(
      ([url, options]) => fetch(url, options).then(() => false, () => true),
      [`${api}/open/a`, options],
    );
  assert.equal(await isRefused({ headers: { "x-unlisted": "1" } }), true);
  assert.match(said.at(-2), /Request header field x-unlisted is not allowed/);
  assert.equal(await isRefused({ method: "PURGE" }), false);
  assert.equal(await isRefused({ headers: { traceparent: "00-1-1-00" } }), false);
});

// --- the run ---------------------------------------------------------------------------------

const browser = await chromium.launch({
  executablePath: RIG.browser,
  args: [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    `--host-resolver-rules=${RIG.names.map((name) => `MAP ${name} 127.0.0.1`).join(",")}`,
  ],
});
const chosen = scenarios.filter(
  ({ name, quick }) => (quick || !RIG.quick) && name.includes(RIG.words),
);
let failures = 0;
for (const { name, run } of chosen) {
  const started = performance.now();
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  context.setDefaultTimeout(TIMEOUT_MS);
  const said = [];
  context.on("console", (message) => said.push(message.text()));
  context.on("weberror", (error) => said.push(String(error.error())));
  let timer;
  const hung = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("the scenario hangs")), TIMEOUT_MS);
  });
  try {
    await Promise.race([run(context), hung]);
    console.log(`ok   ${name} (${((performance.now() - started) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failures += 1;
    console.log(`FAIL ${name}\n${error.stack}\n${said.map((line) => `  page: ${line}`).join("\n")}`);
  } finally {
    clearTimeout(timer);
    await context.close();
  }
}
await browser.close();
process.exit(failures || !chosen.length ? 1 : 0);
