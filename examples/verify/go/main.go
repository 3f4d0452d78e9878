// Who a request is from: `X-Identity-Assertion`, checked.
//
//	JWKS_URL=… ISSUER=… AUDIENCE=orders go run . ASSERTION…
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
)

// identity returns the claims of an assertion, or an error. The keys are fetched in the
// background, and at once for an unknown key.
func identity(keys keyfunc.Keyfunc, assertion string) (jwt.MapClaims, error) {
	claims := jwt.MapClaims{}
	token, err := jwt.ParseWithClaims(assertion, claims, keys.Keyfunc,
		jwt.WithValidMethods([]string{"ES256"}),
		jwt.WithIssuer(os.Getenv("ISSUER")),
		jwt.WithAudience(os.Getenv("AUDIENCE")),
		jwt.WithExpirationRequired(),
		jwt.WithLeeway(5*time.Second))
	if err != nil {
		return nil, err
	}
	if token.Header["typ"] != "gateway-identity+jwt" {
		return nil, errors.New("another kind of token")
	}
	if subject, err := claims.GetSubject(); err != nil || subject == "" {
		return nil, errors.New("nobody's")
	}
	return claims, nil
}

func main() {
	keys, err := keyfunc.NewDefault([]string{os.Getenv("JWKS_URL")})
	if err != nil {
		panic(err)
	}
	for _, assertion := range os.Args[1:] {
		if claims, err := identity(keys, assertion); err != nil {
			fmt.Printf("refused: %q\n", err)
		} else {
			json.NewEncoder(os.Stdout).Encode(claims)
		}
	}
}
