// Who a request is from: `X-Identity-Assertion`, checked with nimbus-jose-jwt.
//
//     JWKS_URL=… ISSUER=… AUDIENCE=orders java -cp nimbus-jose-jwt.jar Verify.java ASSERTION…

import com.nimbusds.jose.JOSEObjectType;
import com.nimbusds.jose.JWSAlgorithm;
import com.nimbusds.jose.jwk.source.JWKSourceBuilder;
import com.nimbusds.jose.proc.DefaultJOSEObjectTypeVerifier;
import com.nimbusds.jose.proc.JWSVerificationKeySelector;
import com.nimbusds.jose.proc.SecurityContext;
import com.nimbusds.jwt.JWTClaimsSet;
import com.nimbusds.jwt.proc.DefaultJWTClaimsVerifier;
import com.nimbusds.jwt.proc.DefaultJWTProcessor;
import java.net.URI;
import java.util.Set;

class Verify {
  /** Returns what checks assertions. Make it once: it keeps the keys, for five minutes. */
  static DefaultJWTProcessor<SecurityContext> processor(
      String jwksUrl, String issuer, String audience) throws Exception {
    var keys = JWKSourceBuilder.create(URI.create(jwksUrl).toURL()).retrying(true).build();
    var claims =
        new DefaultJWTClaimsVerifier<SecurityContext>(
            audience,
            new JWTClaimsSet.Builder().issuer(issuer).build(),
            Set.of("sub", "iat", "exp"));
    claims.setMaxClockSkew(5);
    var processor = new DefaultJWTProcessor<SecurityContext>();
    processor.setJWSTypeVerifier(
        new DefaultJOSEObjectTypeVerifier<>(new JOSEObjectType("gateway-identity+jwt")));
    processor.setJWSKeySelector(new JWSVerificationKeySelector<>(JWSAlgorithm.ES256, keys));
    processor.setJWTClaimsSetVerifier(claims);
    return processor;
  }

  public static void main(String[] args) throws Exception {
    var env = System.getenv();
    var processor = processor(env.get("JWKS_URL"), env.get("ISSUER"), env.get("AUDIENCE"));
    for (var assertion : args) {
      try {
        System.out.println(processor.process(assertion, null));
      } catch (Exception refused) {
        System.out.println("refused: " + refused.getMessage());
      }
    }
  }
}
