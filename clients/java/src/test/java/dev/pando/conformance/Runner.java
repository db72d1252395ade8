package dev.pando.conformance;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.stream.Stream;

/** Runs the cases of clients/conformance with the Java client; see the README there. --client async: the other one. */
public final class Runner {
  private final Map<String, String> options = new HashMap<>();
  private final ExecutorService executor = Executors.newCachedThreadPool(task -> {
    Thread thread = new Thread(task);
    thread.setDaemon(true);
    return thread;
  });
  private int passed;
  private int failed;

  public static void main(String[] arguments) throws IOException, InterruptedException {
    System.exit(new Runner(arguments).run());
  }

  private Runner(String[] arguments) {
    for (int i = 0; i + 1 < arguments.length; i += 2) options.put(arguments[i], arguments[i + 1]);
  }

  private int run() throws IOException, InterruptedException {
    List<Path> files;
    try (Stream<Path> all = Files.list(Path.of(options.get("--cases")))) {
      files = all.filter(file -> file.toString().endsWith(".json")).sorted().toList();
    }
    for (Path file : files) {
      for (JsonElement element : JsonParser.parseString(Files.readString(file)).getAsJsonArray()) {
        JsonObject theCase = element.getAsJsonObject();
        String only = options.get("--only");
        if (only == null || only.equals(theCase.get("name").getAsString())) runCase(theCase);
      }
    }
    System.out.println(passed + " passed, " + failed + " failed");
    return failed == 0 ? 0 : 1;
  }

  private void runCase(JsonObject theCase) throws InterruptedException {
    String name = theCase.get("name").getAsString();
    boolean async = "async".equals(options.get("--client"));
    if (theCase.has("only") && !isFor(languages(theCase), async)) {
      System.out.println("skip " + name);
      return;
    }
    String failure = failureOf(theCase, async);
    if (failure == null) {
      ++passed;
      System.out.println("ok " + name);
    } else {
      ++failed;
      System.out.println("FAIL " + name + ": " + failure);
    }
  }

  /** "java" means both clients. */
  private static boolean isFor(List<String> languages, boolean async) {
    return languages.contains("java") || (async && languages.contains("java-async"));
  }

  private static List<String> languages(JsonObject theCase) {
    List<String> languages = new ArrayList<>();
    for (JsonElement language : theCase.getAsJsonArray("only")) languages.add(language.getAsString());
    return languages;
  }

  /** Null = it passed. */
  private String failureOf(JsonObject theCase, boolean async) throws InterruptedException {
    String timeout = System.getenv().getOrDefault("PANDO_TEST_TIMEOUT_S", "60");
    Control control = new Control(options.get("--control"));
    Future<?> future = executor.submit(() -> {
      try (CaseRun run = new CaseRun(theCase, List.of(options.get("--addresses").split(",")), control, async)) {
        run.run();
      }
    });
    try {
      future.get(Math.round(Double.parseDouble(timeout) * 1000), TimeUnit.MILLISECONDS);
      return null;
    } catch (ExecutionException e) {
      return e.getCause() instanceof BadStep ? e.getCause().getMessage() : String.valueOf(e.getCause());
    } catch (TimeoutException e) {
      future.cancel(true);
      return "it took longer than " + timeout + " s";
    }
  }
}
