# Rails in one file, with its defaults; puma runs it.
require "action_controller/railtie"

class Lenient < Rails::Application
  config.load_defaults Rails::VERSION::STRING[/\d+\.\d+/]
  config.eager_load = false
  config.hosts.clear
  config.secret_key_base = "of no use" * 8
  config.logger = Logger.new(nil)
end

Rails.application.initialize!

class ServedController < ActionController::Base
  skip_forgery_protection
  { admin: "admin", make: "POST admin", remove: "DELETE admin", users: "users",
    panel: "panel", secret: "secret", refund: "refund", lock: "lock" }.each do |action, name|
    define_method(action) do
      headers["X-Handler"] = name
      render plain: name
    end
  end
end

Rails.application.routes.draw do
  get "/admin", to: "served#admin"
  post "/admin", to: "served#make"
  delete "/admin", to: "served#remove"
  get "/admin/users", to: "served#users"
  get "/panel/", to: "served#panel"
  get "/secret", to: "served#secret"
  get "/orders/:id/refund", to: "served#refund"
  get "/v1/:verb", to: "served#lock", constraints: { verb: /things:lock/ }
end

run Rails.application
