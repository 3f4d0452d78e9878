<?php
// Symfony's kernel and router: PHP's own server runs it. It says what Apache and
// PHP-FPM say of a front controller that all requests are rewritten to.
$_SERVER["SCRIPT_NAME"] = $_SERVER["PHP_SELF"] = "/index.php";
$_SERVER["SCRIPT_FILENAME"] = __DIR__ . "/index.php";

require_once "Symfony/Component/HttpKernel/autoload.php";
require_once "Symfony/Component/Routing/autoload.php";

use Symfony\Component\EventDispatcher\EventDispatcher;
use Symfony\Component\HttpFoundation\{Request, RequestStack, Response};
use Symfony\Component\HttpKernel\Controller\{ArgumentResolver, ControllerResolver};
use Symfony\Component\HttpKernel\EventListener\RouterListener;
use Symfony\Component\HttpKernel\Exception\HttpExceptionInterface;
use Symfony\Component\HttpKernel\HttpKernel;
use Symfony\Component\Routing\Matcher\RedirectableUrlMatcher;
use Symfony\Component\Routing\{RequestContext, Route, RouteCollection};

// What the framework's bundle does: a missing or needless slash is redirected.
class Matcher extends RedirectableUrlMatcher
{
    public function redirect(string $path, string $route, ?string $scheme = null): array
    {
        $controller = fn() => new Response("", 301, ["Location" => $path]);
        return ["_controller" => $controller, "_route" => $route];
    }
}

$routes = new RouteCollection();
$add = function (string $method, string $path, string $name) use ($routes): void {
    $controller = fn() => new Response($name, 200, ["X-Handler" => $name]);
    $route = new Route($path, ["_controller" => $controller], [], [], "", [], [$method]);
    $routes->add($name, $route);
};
$add("GET", "/admin", "admin");
$add("POST", "/admin", "POST admin");
$add("DELETE", "/admin", "DELETE admin");
$add("GET", "/admin/users", "users");
$add("GET", "/panel/", "panel");
$add("GET", "/secret", "secret");
$add("GET", "/orders/{id}/refund", "refund");
$add("GET", "/v1/things:lock", "lock");

Request::enableHttpMethodParameterOverride(); // the framework's default in version 5
$request = Request::createFromGlobals();
$stack = new RequestStack();
$context = (new RequestContext())->fromRequest($request);
$dispatcher = new EventDispatcher();
$dispatcher->addSubscriber(new RouterListener(new Matcher($routes, $context), $stack));
$kernel = new HttpKernel(
    $dispatcher,
    new ControllerResolver(),
    $stack,
    new ArgumentResolver()
);
try {
    $kernel->handle($request)->prepare($request)->send();
} catch (HttpExceptionInterface $error) {
    (new Response("", $error->getStatusCode(), $error->getHeaders()))->send();
}
