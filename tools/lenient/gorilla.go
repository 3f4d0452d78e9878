// gorilla/mux with its defaults: the first argument is the port.
package main

import (
	"io"
	"net/http"
	"os"

	"github.com/gorilla/mux"
)

func served(name string) http.HandlerFunc {
	return func(reply http.ResponseWriter, _ *http.Request) {
		reply.Header().Set("X-Handler", name)
		io.WriteString(reply, name)
	}
}

func main() {
	router := mux.NewRouter()
	router.Handle("/admin", served("admin")).Methods("GET")
	router.Handle("/admin", served("POST admin")).Methods("POST")
	router.Handle("/admin", served("DELETE admin")).Methods("DELETE")
	router.Handle("/admin/users", served("users")).Methods("GET")
	router.Handle("/panel/", served("panel")).Methods("GET")
	router.Handle("/secret", served("secret")).Methods("GET")
	router.Handle("/orders/{id}/refund", served("refund")).Methods("GET")
	router.Handle("/v1/things:lock", served("lock")).Methods("GET")
	http.ListenAndServe("127.0.0.1:"+os.Args[1], router)
}
