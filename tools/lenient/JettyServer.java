// Embedded Jetty with servlets: the first argument is the port.
import java.net.InetSocketAddress;
import org.eclipse.jetty.ee11.servlet.ServletContextHandler;
import org.eclipse.jetty.ee11.servlet.ServletHolder;
import org.eclipse.jetty.server.Server;

class JettyServer {
    public static void main(String[] args) throws Exception {
        Server server =
                new Server(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0])));
        ServletContextHandler context = new ServletContextHandler("/");
        Servlets.ALL.forEach(
                (mapping, name) ->
                        context.addServlet(new ServletHolder(new Servlets(name)), mapping));
        server.setHandler(context);
        server.start();
        server.join();
    }
}
