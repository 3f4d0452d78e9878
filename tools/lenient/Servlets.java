// Servlets alone, the same for Tomcat and Jetty: they tell which mapping was taken.
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.util.Map;

class Servlets extends HttpServlet {
    /** Mapping → the name of what it serves. */
    static final Map<String, String> ALL =
            Map.of(
                    "/admin", "admin",
                    "/admin/users", "users",
                    "/panel/", "panel",
                    "/secret", "secret",
                    "/orders/*", "refund",
                    "/v1/things:lock", "lock");

    private final String name;

    Servlets(String name) {
        this.name = name;
    }

    private void serve(HttpServletRequest request, HttpServletResponse reply, String prefix)
            throws IOException {
        String rest = request.getPathInfo();
        if (name.equals("refund") && (rest == null || !rest.matches("/[^/]+/refund"))) {
            reply.sendError(404);
            return;
        }
        reply.setHeader("X-Handler", prefix + name);
        reply.getWriter().print(prefix + name);
    }

    @Override
    protected void doGet(HttpServletRequest request, HttpServletResponse reply)
            throws IOException {
        serve(request, reply, "");
    }

    @Override
    protected void doPost(HttpServletRequest request, HttpServletResponse reply)
            throws IOException {
        serve(request, reply, "POST ");
    }

    @Override
    protected void doDelete(HttpServletRequest request, HttpServletResponse reply)
            throws IOException {
        serve(request, reply, "DELETE ");
    }
}
