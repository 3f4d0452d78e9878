// Express with its defaults: argv[2] is the port.
import express from "express";

const app = express();
const served = (name) => (request, reply) => {
  reply.set("X-Handler", name).type("text").send(name);
};

app.get("/admin", served("admin"));
app.post("/admin", served("POST admin"));
app.delete("/admin", served("DELETE admin"));
app.get("/admin/users", served("users"));
app.get("/panel/", served("panel"));
app.get("/secret", served("secret"));
app.get("/orders/:id/refund", served("refund"));
app.get("/v1/things\\:lock", served("lock"));
app.listen(Number(process.argv[2]), "127.0.0.1");
