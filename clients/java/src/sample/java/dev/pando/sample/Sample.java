package dev.pando.sample;

import dev.pando.client.BatchResult;
import dev.pando.client.KeyRange;
import dev.pando.client.KvRecord;
import dev.pando.client.PandoAsyncClient;
import dev.pando.client.PandoClient;
import dev.pando.client.PandoException;
import dev.pando.client.Row;
import dev.pando.client.ScanIterator;
import dev.pando.client.Session;
import dev.pando.client.Snapshot;
import dev.pando.client.WatchIterator;
import dev.pando.client.WatchOptions;
import dev.pando.client.WriteBatch;
import dev.pando.client.WriteOptions;
import dev.pando.client.WriteResult;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.stream.IntStream;

/**
 * A tour of the client. Argument: HOST:PORT,HOST:PORT, the addresses of routers or of a node; without it, those of the
 * routers of {@code ./dev up}. It writes, and in the end removes, records whose keys begin with "java-sample/".
 */
public final class Sample {
  private static final KeyRange ALL = KeyRange.prefix("java-sample/");

  private Sample() {}

  public static void main(String[] arguments) {
    String[] addresses = (arguments.length > 0 ? arguments[0] : "127.0.0.1:7450,127.0.0.1:7460").split(",");
    try (PandoClient client = PandoClient.connect(addresses)) {
      System.out.println("connected to Pando " + client.serverInfo().serverVersion());
      records(client);
      batches(client);
      ranges(client);
      watches(client);
      errors(client);
      session(client);
      System.out.println("removed: " + client.deleteRange(ALL) + " records");
    }
    try (PandoAsyncClient client = PandoAsyncClient.connect(addresses)) {
      futures(client);
    }
  }

  private static void records(PandoClient client) {
    client.put("java-sample/apple", "red", WriteOptions.create().ttl(Duration.ofHours(1)));
    KvRecord apple = client.get("java-sample/apple").orElseThrow();
    System.out.println("get: " + apple.valueAsString() + ", it expires: " + apple.expiresAt().isPresent());
    System.out.println("a key without a record: " + client.get("java-sample/none").isPresent());

    // Change it only if nobody has changed it since it was read. A condition that does not hold is a result.
    WriteOptions unchanged = WriteOptions.create().ifVersion(apple.version());
    client.put("java-sample/apple", "yellow", unchanged);
    WriteResult late = client.put("java-sample/apple", "blue", unchanged);
    System.out.println("applied: " + late.applied() + ", because it is " + late.current().orElseThrow().valueAsString());
    System.out.println("counter: " + client.increment("java-sample/visits", 5));
  }

  /** Keys with the same {tag} are in one partition: their writes become visible together. */
  private static void batches(PandoClient client) {
    client.put("java-sample/{bank}/anna", "100");
    client.put("java-sample/{bank}/ben", "0");
    long anna = client.get("java-sample/{bank}/anna").orElseThrow().version();
    WriteBatch transfer = new WriteBatch().allOrNothing()
        .put("java-sample/{bank}/anna", "70", WriteOptions.create().ifVersion(anna))
        .increment("java-sample/{bank}/ben", 30);
    BatchResult first = client.writeBatch(transfer);
    BatchResult again = client.writeBatch(transfer);
    System.out.println("moved: " + first.allApplied() + ", moved again: " + again.allApplied());
  }

  private static void ranges(PandoClient client) {
    try (ScanIterator rows = client.scan(ALL)) {
      for (Row row : rows) System.out.println("scan: " + row.keyAsString() + " = " + row.valueAsString());
    }
    // A snapshot is one moment of the whole cluster. It is renewed until it is closed.
    try (Snapshot snapshot = client.snapshot()) {
      client.put("java-sample/pear", "green");
      System.out.println("count: in the snapshot " + snapshot.count(ALL) + ", now " + client.count(ALL));
    }
  }

  /** To miss nothing, watch from the version of a snapshot. */
  private static void watches(PandoClient client) {
    long version;
    try (Snapshot snapshot = client.snapshot()) {
      version = snapshot.version();
    }
    client.remove("java-sample/pear");
    try (WatchIterator changes = client.watch("java-sample/", WatchOptions.create().afterVersion(version))) {
      System.out.println("watch: " + changes.next());
    }
  }

  private static void errors(PandoClient client) {
    try {
      client.put("", "no key");
    } catch (PandoException e) {
      System.out.println("error: " + e.codeName() + ", applied: " + e.applied() + ". " + e.advice());
    }
  }

  /** A session reads at any replica, and still sees what it has written. */
  private static void session(PandoClient client) {
    Session session = client.session();
    session.put("java-sample/mine", "1");
    System.out.println("session: " + session.get("java-sample/mine").orElseThrow().valueAsString());
  }

  /** All of them are under way at once, over one connection. */
  private static void futures(PandoAsyncClient client) {
    List<CompletableFuture<WriteResult>> writes = IntStream.range(0, 100)
        .mapToObj(i -> client.put("java-sample/" + i, "x"))
        .toList();
    CompletableFuture.allOf(writes.toArray(new CompletableFuture<?>[0])).join();
    long removed = client.deleteRange(ALL).join();
    System.out.println("asynchronous: wrote " + writes.size() + " records and removed " + removed);
  }
}
