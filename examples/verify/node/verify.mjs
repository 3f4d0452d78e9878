// Who a request is from: `X-Identity-Assertion`, checked. Node 18 or newer, no package.
//
//     JWKS_URL=… ISSUER=… AUDIENCE=orders node verify.mjs ASSERTION…

import { createPublicKey, verify } from "node:crypto";

const { JWKS_URL, ISSUER, AUDIENCE } = process.env;
const LEEWAY_S = 5;
let keys = new Map();
let fetchedAt = -Infinity;

/** Return a key by its id. Keys are kept for five minutes; an unknown one is looked for
 *  at once, but not more often than every ten seconds. */
async function keyOf(kid) {
  const age = Date.now() - fetchedAt;
  if (age > 300_000 || (!keys.has(kid) && age > 10_000)) {
    const reply = await fetch(JWKS_URL, { signal: AbortSignal.timeout(5_000) });
    if (!reply.ok) throw new Error(`the keys can't be fetched: ${reply.status}`);
    const found = (await reply.json()).keys.filter((jwk) => jwk.alg === "ES256");
    keys = new Map(
      found.map((jwk) => [jwk.kid, createPublicKey({ key: jwk, format: "jwk" })]),
    );
    fetchedAt = Date.now();
  }
  return keys.get(kid);
}

/** Return the claims of an assertion, or throw an Error. */
export async function identity(assertion) {
  const [head, body, signature, ...more] = assertion.split(".");
  if (!signature || more.length) throw new Error("not a signed JWT");
  const [header, claims] = [head, body].map((part) =>
    JSON.parse(Buffer.from(part, "base64url")),
  );
  if (header.alg !== "ES256") throw new Error("another algorithm");
  if (header.typ !== "gateway-identity+jwt") throw new Error("another kind of token");
  const key = await keyOf(header.kid);
  const isSigned =
    key !== undefined &&
    verify(
      "sha256",
      Buffer.from(`${head}.${body}`),
      { key, dsaEncoding: "ieee-p1363" },
      Buffer.from(signature, "base64url"),
    );
  if (!isSigned) throw new Error("the signature isn't the gateway's");
  if (claims.iss !== ISSUER) throw new Error("another issuer");
  if (claims.aud !== AUDIENCE) throw new Error("for another service");
  if (!(claims.exp > Date.now() / 1000 - LEEWAY_S)) throw new Error("expired");
  if (typeof claims.sub !== "string") throw new Error("nobody's");
  return claims;
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  for (const assertion of process.argv.slice(2)) {
    try {
      console.log(JSON.stringify(await identity(assertion)));
    } catch (error) {
      console.log(`refused: ${error.message}`);
    }
  }
}
