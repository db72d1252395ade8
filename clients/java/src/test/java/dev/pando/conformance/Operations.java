package dev.pando.conformance;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import dev.pando.client.DeleteOptions;
import dev.pando.client.KeyRange;
import dev.pando.client.KvCommands;
import dev.pando.client.Level;
import dev.pando.client.ReadOptions;
import dev.pando.client.ScanOptions;
import dev.pando.client.ScanPage;
import dev.pando.client.WatchOptions;
import dev.pando.client.WatchPage;
import dev.pando.client.WriteBatch;
import dev.pando.client.WriteOptions;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** The operations of steps on records: arguments to calls, and what the calls return to results. */
final class Operations {
  private static final int FILL_OPS = 500;

  private final Scope scope;
  private final Driver driver;
  private final KvCommands kv;
  private final Map<String, Driver.OpenSnapshot> snapshots;
  private JsonObject arguments;

  Operations(Scope scope, Driver driver, Map<String, Driver.OpenSnapshot> snapshots) {
    this.scope = scope;
    this.driver = driver;
    this.snapshots = snapshots;
    kv = driver.kv();
  }

  Object run(String operation, JsonObject given) {
    arguments = given;
    switch (operation) {
      case "get": return Results.record(kv.get(bytes("key"), read()));
      case "put": return Results.write(kv.put(bytes("key"), bytes("value"), write(given)));
      case "remove": return Results.write(kv.remove(bytes("key"), write(given)));
      case "increment": return Results.write(kv.increment(bytes("key"), number("delta", 1), write(given)));
      case "touch": return Results.write(kv.touch(bytes("key"), write(given)));
      case "multi_get":
        return Results.map("records", Results.list(kv.multiGet(scope.keys(given.get("keys")), read()), Results::record));
      case "write_batch": return Results.batch(kv.writeBatch(batch()));
      case "scan":
        Driver.Scanned scanned = driver.scan(range(), scan());
        return Results.rows(scanned.rows(), scanned.pages(), scanned.cursor());
      case "scan_page":
        ScanPage page = kv.scanPage(range(), scan());
        return Results.rows(page.rows(), 1, page.cursor());
      case "count": return Results.map("count", kv.count(range(), read()));
      case "aggregate": return Results.aggregate(kv.aggregate(range(), read()));
      case "split_range": return Results.parts(kv.splitRange(range(), (int) number("parts", 0), read()));
      case "delete_range": return Results.map("removed", kv.deleteRange(range(), delete()));
      case "watch": return watch();
      case "server_info": return Results.info(driver.serverInfo());
      case "fill": return fill();
      default: throw new BadStep("the runner does not know this operation");
    }
  }

  private byte[] bytes(String name) {
    return arguments.has(name) ? scope.bytes(arguments.get(name)) : new byte[0];
  }

  private long number(String name, long otherwise) {
    return arguments.has(name) ? scope.number(arguments.get(name)) : otherwise;
  }

  private boolean flag(String name) {
    return arguments.has(name) && arguments.get(name).getAsBoolean();
  }

  private KeyRange range() {
    return new KeyRange(bytes("start"), bytes("end"), bytes("prefix"));
  }

  private byte[] token(String name) {
    Driver.OpenSnapshot snapshot = snapshots.get(arguments.get(name).getAsString());
    if (snapshot == null) throw new BadStep("there is no snapshot " + arguments.get(name));
    return snapshot.token();
  }

  private ReadOptions read() {
    ReadOptions options = ReadOptions.create();
    if (arguments.has("level")) options = options.level(Level.valueOf(arguments.get("level").getAsString()));
    if (arguments.has("max_staleness_ms")) options = options.maxStaleness(Duration.ofMillis(number("max_staleness_ms", 0)));
    if (arguments.has("timeout_ms")) options = options.timeout(Duration.ofMillis(number("timeout_ms", 0)));
    return arguments.has("snapshot") ? options.snapshot(token("snapshot")) : options;
  }

  private WriteOptions write(JsonObject given) {
    WriteOptions options = WriteOptions.create();
    if (given.has("if_version")) options = options.ifVersion(scope.number(given.get("if_version")));
    if (given.has("if_value")) options = options.ifValue(scope.bytes(given.get("if_value")));
    if (given.has("if_exists")) {
      options = given.get("if_exists").getAsBoolean() ? options.ifExists() : options.ifAbsent();
    }
    if (given.has("ttl_ms")) options = options.ttl(Duration.ofMillis(scope.number(given.get("ttl_ms"))));
    if (given.has("expires_at_ms")) {
      options = options.expiresAt(Instant.ofEpochMilli(scope.number(given.get("expires_at_ms"))));
    }
    if (given.has("ttl") && given.get("ttl").getAsString().equals("clear")) options = options.noExpiry();
    if (given.has("return_previous") && given.get("return_previous").getAsBoolean()) options = options.returnPrevious();
    if (given.has("level")) options = options.level(Level.valueOf(given.get("level").getAsString()));
    if (given.has("timeout_ms")) options = options.timeout(Duration.ofMillis(scope.number(given.get("timeout_ms"))));
    return options;
  }

  private ScanOptions scan() {
    ScanOptions options = ScanOptions.create().read(read()).cursor(bytes("cursor"));
    if (flag("reverse")) options = options.reverse();
    if (flag("keys_only")) options = options.keysOnly();
    if (flag("sizes_only")) options = options.sizesOnly();
    if (arguments.has("limit")) options = options.limit(number("limit", 0));
    if (arguments.has("page_rows")) options = options.pageRows((int) number("page_rows", 0));
    if (arguments.has("since")) options = options.since(token("since"));
    if (arguments.has("slices")) options = options.slice((int) number("slice", 0), (int) number("slices", 0));
    return options;
  }

  private DeleteOptions delete() {
    DeleteOptions options = DeleteOptions.create();
    options = options.pageRows((int) number("page_rows", 0)).maxVersion(number("max_version", 0));
    if (arguments.has("level")) options = options.level(Level.valueOf(arguments.get("level").getAsString()));
    return arguments.has("timeout_ms") ? options.timeout(Duration.ofMillis(number("timeout_ms", 0))) : options;
  }

  private WriteBatch batch() {
    WriteBatch batch = new WriteBatch();
    for (JsonElement element : arguments.getAsJsonArray("ops")) {
      Map.Entry<String, JsonElement> op = element.getAsJsonObject().entrySet().iterator().next();
      addTo(batch, op.getKey(), op.getValue().getAsJsonObject());
    }
    if (flag("all_or_nothing")) batch.allOrNothing();
    if (arguments.has("conditions")) {
      for (JsonElement element : arguments.getAsJsonArray("conditions")) {
        JsonObject condition = element.getAsJsonObject();
        batch.condition(scope.bytes(condition.get("key")), write(condition));
      }
    }
    if (arguments.has("level")) batch.level(Level.valueOf(arguments.get("level").getAsString()));
    if (arguments.has("timeout_ms")) batch.timeout(Duration.ofMillis(number("timeout_ms", 0)));
    return batch;
  }

  private void addTo(WriteBatch batch, String kind, JsonObject op) {
    byte[] key = scope.bytes(op.get("key"));
    switch (kind) {
      case "put" -> batch.put(key, scope.bytes(op.get("value")), write(op));
      case "remove" -> batch.remove(key, write(op));
      case "increment" -> batch.increment(key, op.has("delta") ? scope.number(op.get("delta")) : 1, write(op));
      case "touch" -> batch.touch(key, write(op));
      default -> throw new BadStep("the runner does not know the op " + kind);
    }
  }

  /** Until there are enough changes, or time is over. */
  private Object watch() {
    WatchOptions options = WatchOptions.create();
    if (arguments.has("after_version")) options = options.afterVersion(number("after_version", 0));
    if (arguments.has("position")) options = options.position(bytes("position"));
    if (arguments.has("timeout_ms")) options = options.timeout(Duration.ofMillis(number("timeout_ms", 0)));
    int most = (int) number("max_changes", 0);
    long end = System.nanoTime() + Duration.ofMillis(number("wait_ms", 0)).toNanos();
    List<Object> changes = new ArrayList<>();
    try (Driver.OpenWatch watch = driver.watch(bytes("prefix"), options)) {
      while (true) {
        Duration left = Duration.ofNanos(Math.max(0, end - System.nanoTime()));
        WatchPage page = watch.poll(most == 0 ? 0 : most - changes.size(), left);
        changes.addAll(Results.list(page.changes(), Results::change));
        boolean enough = most > 0 && changes.size() >= most;
        if (enough || (!page.more() && System.nanoTime() - end >= 0)) {
          return Results.map("changes", changes, "position", page.position());
        }
      }
    }
  }

  private Object fill() {
    String prefix = arguments.get("prefix").getAsString();
    long count = number("count", 0);
    String format = "%s%0" + number("digits", 4) + "d";
    WriteBatch batch = new WriteBatch();
    for (long i = 0; i < count; ++i) {
      byte[] value = arguments.has("value") ? bytes("value") : Long.toString(i).getBytes(StandardCharsets.UTF_8);
      batch.put(String.format(format, prefix, i).getBytes(StandardCharsets.UTF_8), value);
      if (batch.size() < FILL_OPS && i + 1 < count) continue;
      if (!kv.writeBatch(batch).allApplied()) throw new BadStep("some ops of the batch were not applied");
      batch = new WriteBatch();
    }
    return Map.of();
  }
}
