// A lenient upstream for the tests: `node server.mjs express` or `… koa`, with the
// framework's defaults. Its port is the one line that it prints. It ends with its
// standard input, so it never outlives who started it.
import { createServer } from "node:http";

const ROUTES = [
  ["all", "/admin", "admin"],
  ["all", "/admin/users", "users"],
  ["all", "/secret", "secret"],
  ["post", "/orders/:id/refund", "refund"],
];

const APPS = {
  async express() {
    const { default: express } = await import("express");
    const app = express();
    app.disable("x-powered-by");
    const served = (name) => (request, reply) => {
      reply.set({ "X-Handler": name, "X-Url": request.url }).type("text").send(name);
    };
    for (const [method, path, name] of ROUTES) app[method](path, served(name));
    app.use(served("other"));
    return app;
  },

  async koa() {
    const { default: Koa } = await import("koa");
    const { default: Router } = await import("@koa/router");
    const app = new Koa();
    const router = new Router();
    const served = (name) => (context) => {
      context.set({ "X-Handler": name, "X-Url": context.req.url });
      context.body = name;
    };
    for (const [method, path, name] of ROUTES) router[method](path, served(name));
    app.use(router.routes()).use(served("other"));
    return app.callback();
  },
};

const server = createServer(await APPS[process.argv[2]]());
server.listen(0, "127.0.0.1", () => {
  console.log(JSON.stringify({ port: server.address().port }));
});
process.stdin.resume().on("end", () => process.exit(0));
