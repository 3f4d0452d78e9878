// supertokens-web-js without any framework. `window.st` is what scenarios.mjs calls.
import SuperTokens from "supertokens-web-js";
import EmailPassword from "supertokens-web-js/recipe/emailpassword";
import EmailVerification from "supertokens-web-js/recipe/emailverification";
import Passwordless from "supertokens-web-js/recipe/passwordless";
import Session from "supertokens-web-js/recipe/session";
import { helpers } from "./helpers.js";

const { api, mode } = window.CONFIG;

SuperTokens.init({
  appInfo: { appName: "Browser tests", apiDomain: api, apiBasePath: "/auth" },
  recipeList: [
    Session.init({ tokenTransferMethod: mode }),
    EmailPassword.init(),
    EmailVerification.init(),
    Passwordless.init(),
  ],
});

window.st = { Session, EmailPassword, EmailVerification, Passwordless, ...helpers(api) };
