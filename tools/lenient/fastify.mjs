// Fastify with its defaults: argv[2] is the port.
import Fastify from "fastify";

const app = Fastify();
const served = (name) => (_, reply) => {
  reply.header("X-Handler", name).send(name);
};

// It refuses bodies of a type that it has no parser for.
app.addContentTypeParser("*", (_request, _body, done) => done(null));
app.get("/admin", served("admin"));
app.post("/admin", served("POST admin"));
app.delete("/admin", served("DELETE admin"));
app.get("/admin/users", served("users"));
app.get("/panel/", served("panel"));
app.get("/secret", served("secret"));
app.get("/orders/:id/refund", served("refund"));
app.get("/v1/things::lock", served("lock")); // two colons are one
await app.listen({ port: Number(process.argv[2]), host: "127.0.0.1" });
