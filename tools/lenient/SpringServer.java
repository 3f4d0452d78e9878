// Spring Boot with its defaults, the same program for every version: the first argument
// is the port.
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.http.ResponseEntity;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.RequestMethod;
import org.springframework.web.bind.annotation.RestController;

@RestController
@EnableAutoConfiguration
public class SpringServer {
    private static ResponseEntity<String> served(String name) {
        return ResponseEntity.ok().header("X-Handler", name).body(name);
    }

    @RequestMapping(path = "/admin", method = RequestMethod.GET)
    ResponseEntity<String> admin() {
        return served("admin");
    }

    @RequestMapping(path = "/admin", method = RequestMethod.POST)
    ResponseEntity<String> make() {
        return served("POST admin");
    }

    @RequestMapping(path = "/admin", method = RequestMethod.DELETE)
    ResponseEntity<String> remove() {
        return served("DELETE admin");
    }

    @RequestMapping(path = "/admin/users", method = RequestMethod.GET)
    ResponseEntity<String> users() {
        return served("users");
    }

    @RequestMapping(path = "/panel/", method = RequestMethod.GET)
    ResponseEntity<String> panel() {
        return served("panel");
    }

    @RequestMapping(path = "/secret", method = RequestMethod.GET)
    ResponseEntity<String> secret() {
        return served("secret");
    }

    @RequestMapping(path = "/orders/{id}/refund", method = RequestMethod.GET)
    ResponseEntity<String> refund(@PathVariable("id") String id) {
        return served("refund");
    }

    @RequestMapping(path = "/v1/things:lock", method = RequestMethod.GET)
    ResponseEntity<String> lock() {
        return served("lock");
    }

    public static void main(String[] args) {
        SpringApplication.run(
                SpringServer.class, "--server.port=" + args[0], "--server.address=127.0.0.1");
    }
}
