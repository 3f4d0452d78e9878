// Embedded Tomcat with servlets: the first argument is the port.
import java.io.File;
import java.nio.file.Files;
import org.apache.catalina.Context;
import org.apache.catalina.startup.Tomcat;

class TomcatServer {
    public static void main(String[] args) throws Exception {
        File folder = Files.createTempDirectory("tomcat").toFile();
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(folder.getPath());
        tomcat.setPort(Integer.parseInt(args[0]));
        tomcat.getConnector().setProperty("address", "127.0.0.1");
        Context context = tomcat.addContext("", folder.getPath());
        Servlets.ALL.forEach(
                (mapping, name) -> {
                    Tomcat.addServlet(context, name, new Servlets(name));
                    context.addServletMappingDecoded(mapping, name);
                });
        tomcat.start();
        tomcat.getServer().await();
    }
}
