package dev.pando.conformance;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import dev.pando.client.ClientOptions;
import dev.pando.client.Level;
import dev.pando.client.PandoException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;

/** One case: its clients, sessions and snapshots, and its steps one after the other. */
final class CaseRun implements AutoCloseable {
  private static final Set<String> STEP_FIELDS = Set.of("expect", "error", "save", "on");

  private final JsonObject theCase;
  private final List<String> addresses;
  private final boolean async;
  private final Control control;
  private final Map<String, Driver> drivers = new ConcurrentHashMap<>();
  private final Map<String, Driver.OpenSnapshot> snapshots = new ConcurrentHashMap<>();
  private final boolean proxied;

  CaseRun(JsonObject theCase, List<String> addresses, Control control, boolean async) {
    this.theCase = theCase;
    this.async = async;
    this.control = control;
    proxied = theCase.has("through");
    this.addresses = proxied ? List.of(control.ask("proxy").get("address").getAsString()) : addresses;
    JsonObject options = theCase.has("client") ? theCase.getAsJsonObject("client") : new JsonObject();
    drivers.put("", open(options, new Scope()));
  }

  private Driver open(JsonObject given, Scope scope) {
    List<String> to = addresses;
    if (given.has("addresses")) {
      JsonElement element = given.get("addresses");
      Object value = Scope.isVariable(element) ? scope.variable(element) : Json.result(element);
      to = new ArrayList<>();
      for (Object address : (List<?>) value) to.add((String) address);
    }
    ClientOptions.Builder options = ClientOptions.builder(to);
    if (given.has("timeout_ms")) options.timeout(Duration.ofMillis(given.get("timeout_ms").getAsLong()));
    if (given.has("pool_size")) options.poolSize(given.get("pool_size").getAsInt());
    if (given.has("client_name")) options.clientName(given.get("client_name").getAsString());
    if (given.has("read_level")) options.readLevel(Level.valueOf(given.get("read_level").getAsString()));
    if (given.has("write_level")) options.writeLevel(Level.valueOf(given.get("write_level").getAsString()));
    if (given.has("max_staleness_ms")) options.maxStaleness(Duration.ofMillis(given.get("max_staleness_ms").getAsLong()));
    return Driver.open(options.build(), async);
  }

  void run() {
    steps(theCase.getAsJsonArray("steps"), new Scope());
  }

  private void steps(JsonArray steps, Scope scope) {
    for (int i = 0; i < steps.size(); ++i) {
      JsonObject step = steps.get(i).getAsJsonObject();
      String operation = step.keySet().stream().filter(name -> !STEP_FIELDS.contains(name)).findFirst().orElse("nothing");
      try {
        step(step, operation, scope);
      } catch (BadStep e) {
        throw new BadStep("step " + (i + 1) + " (" + operation + "): " + e.getMessage());
      } catch (RuntimeException e) {
        throw new BadStep("step " + (i + 1) + " (" + operation + "): " + e + " at " + List.of(e.getStackTrace()).get(0));
      }
    }
  }

  private void step(JsonObject step, String operation, Scope scope) {
    Object result;
    String expectation = step.has("error") ? "error" : "expect";
    try {
      result = perform(step, operation, step.get(operation), scope);
      if (step.has("error")) {
        throw new BadStep("expected the error " + step.get("error") + ", got " + Json.show(result));
      }
    } catch (PandoException e) {
      result = Results.error(e);
      if (!step.has("error")) throw new BadStep("expected " + step.get("expect") + ", got the error " + Json.show(result));
    }
    if (step.has(expectation) && !new Matcher(scope).matches(step.get(expectation), result)) {
      throw new BadStep("expected " + step.get(expectation) + ", got " + Json.show(result));
    }
    if (step.has("save")) save(step.getAsJsonObject("save"), result, scope);
  }

  private static void save(JsonObject save, Object result, Scope scope) {
    for (Map.Entry<String, JsonElement> entry : save.entrySet()) {
      String path = entry.getValue().getAsString();
      Object value = result;
      for (String part : path.equals(".") ? new String[0] : path.split("\\.")) {
        value = value instanceof List<?> list ? list.get(Integer.parseInt(part)) : ((Map<?, ?>) value).get(part);
      }
      scope.set(entry.getKey(), value);
    }
  }

  private Object perform(JsonObject step, String operation, JsonElement element, Scope scope) {
    if (operation.equals("sleep_ms")) {
      sleep(element.getAsLong());
      return Map.of();
    }
    JsonObject arguments = element.getAsJsonObject();
    Driver driver = drivers.get(step.has("on") ? step.get("on").getAsString() : "");
    if (driver == null) throw new BadStep("there is no client or session " + step.get("on"));
    switch (operation) {
      case "control": return Json.result(control.ask(scope.replaced(arguments)));
      case "repeat": return repeat(arguments, scope);
      case "parallel": return parallel(arguments, scope);
      case "session": return put(arguments, driver.session());
      case "client": return put(arguments, open(arguments, scope));
      case "close":
        drivers.get(arguments.get("client").getAsString()).close();
        return Map.of();
      case "snapshot": return snapshot(arguments, driver);
      case "renew":
        Driver.OpenSnapshot renewed = snapshot(arguments);
        renewed.renew(Duration.ofMillis(arguments.get("ttl_ms").getAsLong()));
        return shown(renewed);
      case "release": return Results.map("existed", snapshot(arguments).release());
      default: return new Operations(scope, driver, snapshots).run(operation, arguments);
    }
  }

  private Object put(JsonObject arguments, Driver driver) {
    drivers.put(arguments.get("as").getAsString(), driver);
    return Map.of();
  }

  private Driver.OpenSnapshot snapshot(JsonObject arguments) {
    Driver.OpenSnapshot snapshot = snapshots.get(arguments.get("snapshot").getAsString());
    if (snapshot == null) throw new BadStep("there is no snapshot " + arguments.get("snapshot"));
    return snapshot;
  }

  private Object snapshot(JsonObject arguments, Driver driver) {
    long ttl = arguments.has("ttl_ms") ? arguments.get("ttl_ms").getAsLong() : 60_000;
    boolean renew = !arguments.has("renew") || arguments.get("renew").getAsBoolean();
    Driver.OpenSnapshot opened = driver.snapshot(Duration.ofMillis(ttl), renew);
    snapshots.put(arguments.get("as").getAsString(), opened);
    return shown(opened);
  }

  private static Object shown(Driver.OpenSnapshot snapshot) {
    return Results.map("version", snapshot.version(), "expires_at_ms", snapshot.expiresAtMillis());
  }

  private Object repeat(JsonObject arguments, Scope scope) {
    for (long i = 0; i < arguments.get("times").getAsLong(); ++i) {
      scope.set("i", i);
      steps(arguments.getAsJsonArray("steps"), scope);
    }
    return Map.of();
  }

  private Object parallel(JsonObject arguments, Scope scope) {
    List<JsonArray> branches = new ArrayList<>();
    if (arguments.has("branches")) {
      for (JsonElement branch : arguments.getAsJsonArray("branches")) branches.add(branch.getAsJsonArray());
    } else {
      for (int i = 0; i < arguments.get("times").getAsInt(); ++i) branches.add(arguments.getAsJsonArray("steps"));
    }
    List<Thread> threads = new ArrayList<>();
    Map<Integer, String> failures = new ConcurrentHashMap<>();
    for (int i = 0; i < branches.size(); ++i) {
      int number = i;
      Scope inner = scope.inner();
      inner.set("i", (long) i);
      Thread thread = new Thread(() -> {
        try {
          steps(branches.get(number), inner);
        } catch (RuntimeException e) {
          failures.put(number, String.valueOf(e.getMessage()));
        }
      });
      threads.add(thread);
      thread.start();
    }
    join(threads);
    if (!failures.isEmpty()) throw new BadStep(failures.size() + " failed, such as " + failures.values().iterator().next());
    return Map.of();
  }

  private static void join(List<Thread> threads) {
    try {
      for (Thread thread : threads) thread.join();
    } catch (InterruptedException e) {
      threads.forEach(Thread::interrupt);
      throw new BadStep("the case took too long");
    }
  }

  private static void sleep(long millis) {
    try {
      Thread.sleep(millis);
    } catch (InterruptedException e) {
      throw new BadStep("the case took too long");
    }
  }

  @Override
  public void close() {
    snapshots.values().forEach(Driver.OpenSnapshot::close);
    drivers.values().forEach(Driver::close);
    if (proxied || theCase.get("steps").toString().contains("\"control\":")) control.ask("heal");
  }
}
