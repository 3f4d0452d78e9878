// No library at all.
import { helpers } from "./helpers.js";

window.st = helpers(window.CONFIG.api);
