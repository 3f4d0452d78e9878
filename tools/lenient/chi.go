// chi with its defaults: the first argument is the port.
package main

import (
	"io"
	"net/http"
	"os"

	"github.com/go-chi/chi/v5"
)

func served(name string) http.HandlerFunc {
	return func(reply http.ResponseWriter, _ *http.Request) {
		reply.Header().Set("X-Handler", name)
		io.WriteString(reply, name)
	}
}

func main() {
	router := chi.NewRouter()
	router.Get("/admin", served("admin"))
	router.Post("/admin", served("POST admin"))
	router.Delete("/admin", served("DELETE admin"))
	router.Get("/admin/users", served("users"))
	router.Get("/panel/", served("panel"))
	router.Get("/secret", served("secret"))
	router.Get("/orders/{id}/refund", served("refund"))
	router.Get("/v1/things:lock", served("lock"))
	http.ListenAndServe("127.0.0.1:"+os.Args[1], router)
}
