// The pre-built UI of supertokens-auth-react, at /auth.
import React from "react";
import { createRoot } from "react-dom/client";
import SuperTokens, { SuperTokensWrapper } from "supertokens-auth-react";
import EmailPassword from "supertokens-auth-react/recipe/emailpassword";
import { EmailPasswordPreBuiltUI } from "supertokens-auth-react/recipe/emailpassword/prebuiltui";
import { canHandleRoute, getRoutingComponent } from "supertokens-auth-react/ui";
import Session, { SessionAuth, useSessionContext } from "supertokens-auth-react/recipe/session";
import { helpers } from "./helpers.js";

const { api, site, mode } = window.CONFIG;

SuperTokens.init({
  appInfo: {
    appName: "Browser tests",
    apiDomain: api,
    websiteDomain: site,
    apiBasePath: "/auth",
    websiteBasePath: "/auth",
  },
  recipeList: [EmailPassword.init(), Session.init({ tokenTransferMethod: mode })],
  getRedirectionURL: async (context) => (context.action === "SUCCESS" ? "/home" : undefined),
});

window.st = { Session, ...helpers(api) };

async function signOut() {
  await Session.signOut();
  location.href = "/auth";
}

function Home() {
  const session = useSessionContext();
  if (session.loading) return null;
  return (
    <p id="home">
      Signed in as <b id="user">{session.userId}</b>.{" "}
      <button id="out" onClick={signOut}>
        Sign out
      </button>
    </p>
  );
}

function App() {
  if (canHandleRoute([EmailPasswordPreBuiltUI])) {
    return getRoutingComponent([EmailPasswordPreBuiltUI]);
  }
  return (
    <SessionAuth>
      <Home />
    </SessionAuth>
  );
}

createRoot(document.getElementById("root")).render(
  <SuperTokensWrapper>
    <App />
  </SuperTokensWrapper>,
);
