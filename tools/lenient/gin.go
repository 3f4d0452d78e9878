// gin with its defaults: the first argument is the port.
package main

import (
	"net/http"
	"os"

	"github.com/gin-gonic/gin"
)

func served(name string) gin.HandlerFunc {
	return func(context *gin.Context) {
		context.Header("X-Handler", name)
		context.String(http.StatusOK, name)
	}
}

func main() {
	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	router.GET("/admin", served("admin"))
	router.POST("/admin", served("POST admin"))
	router.DELETE("/admin", served("DELETE admin"))
	router.GET("/admin/users", served("users"))
	router.GET("/panel/", served("panel"))
	router.GET("/secret", served("secret"))
	router.GET("/orders/:id/refund", served("refund"))
	router.GET("/v1/things\\:lock", served("lock"))
	router.Run("127.0.0.1:" + os.Args[1])
}
