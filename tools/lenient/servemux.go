// Go's own ServeMux: the first argument is the port.
package main

import (
	"io"
	"net/http"
	"os"
)

func served(name string) http.HandlerFunc {
	return func(reply http.ResponseWriter, _ *http.Request) {
		reply.Header().Set("X-Handler", name)
		io.WriteString(reply, name)
	}
}

func main() {
	mux := http.NewServeMux()
	mux.Handle("GET /admin", served("admin"))
	mux.Handle("POST /admin", served("POST admin"))
	mux.Handle("DELETE /admin", served("DELETE admin"))
	mux.Handle("GET /admin/users", served("users"))
	mux.Handle("GET /panel/", served("panel"))
	mux.Handle("GET /secret", served("secret"))
	mux.Handle("GET /orders/{id}/refund", served("refund"))
	mux.Handle("GET /v1/things:lock", served("lock"))
	http.ListenAndServe("127.0.0.1:"+os.Args[1], mux)
}
