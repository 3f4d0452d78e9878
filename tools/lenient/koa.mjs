// Koa with its router's defaults: argv[2] is the port.
import Koa from "koa";
import Router from "@koa/router";

const app = new Koa();
const router = new Router();
const served = (name) => (context) => {
  context.set("X-Handler", name);
  context.body = name;
};

router.get("/admin", served("admin"));
router.post("/admin", served("POST admin"));
router.delete("/admin", served("DELETE admin"));
router.get("/admin/users", served("users"));
router.get("/panel/", served("panel"));
router.get("/secret", served("secret"));
router.get("/orders/:id/refund", served("refund"));
router.get("/v1/things\\:lock", served("lock"));
app.use(router.routes()).use(router.allowedMethods());
app.listen(Number(process.argv[2]), "127.0.0.1");
