# Sinatra in the classic way, with its defaults; puma runs it.
require "sinatra"

helpers do
  def served(name)
    headers "X-Handler" => name
    content_type :text
    name
  end
end

get("/admin") { served "admin" }
post("/admin") { served "POST admin" }
delete("/admin") { served "DELETE admin" }
get("/admin/users") { served "users" }
get("/panel/") { served "panel" }
get("/secret") { served "secret" }
get("/orders/:id/refund") { served "refund" }
get("/v1/things\\:lock") { served "lock" }

run Sinatra::Application
