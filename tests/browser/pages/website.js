// supertokens-website: the session alone, with sign-in by hand.
import * as Session from "supertokens-website";
import { helpers } from "./helpers.js";

const { api, mode } = window.CONFIG;

Session.init({ apiDomain: api, apiBasePath: "/auth", tokenTransferMethod: mode });

window.st = { Session, ...helpers(api) };
