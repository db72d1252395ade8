package dev.pando.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.pando.api.Change;
import dev.pando.api.GetReply;
import dev.pando.api.GetRequest;
import dev.pando.api.Kv;
import dev.pando.api.KvError;
import dev.pando.api.MultiGetItem;
import dev.pando.api.MultiGetReply;
import dev.pando.api.MultiGetRequest;
import dev.pando.api.WatchReply;
import dev.pando.api.WatchRequest;
import dev.pando.api.WriteBatchReply;
import dev.pando.api.WriteBatchRequest;
import dev.pando.api.WriteOp;
import dev.pando.api.WriteResult;
import dev.pando.api.pandoConstants;
import dev.pando.client.FaultsTest.Client;
import dev.pando.client.FaultsTest.Kind;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** Addresses of nodes instead of routers: a client goes to the master that an error names, if it knows the address. */
@Timeout(30)
class NodesTest {
  private static final ReadOptions BRIEF = ReadOptions.create().timeout(Duration.ofSeconds(1));

  private static KvError notMaster(String master) {
    KvError error = new KvError().setCode(pandoConstants.NOT_MASTER).setApplied(pandoConstants.APPLIED_NO);
    return error.setRetryable(true).setRetry_after_ms(20).setMaster(master);
  }

  /** Nodes of which the one whose number a key begins with has it. The others name `master`, or that one if it is null. */
  private static final class Nodes implements AutoCloseable {
    final List<FakeServer> servers = new ArrayList<>();
    private final String master;

    Nodes(int count, String master) throws IOException {
      this.master = master;
      for (int i = 0; i < count; ++i) {
        int number = i;
        servers.add(new FakeServer(request -> handle(number, request)));
      }
    }

    String[] addresses() {
      return servers.stream().map(FakeServer::address).toArray(String[]::new);
    }

    /** Null if this node has the key. */
    private KvError error(int number, ByteBuffer key) {
      int leads = key.get(key.position()) - '0';
      if (leads == number) return null;
      return notMaster(master != null ? master : servers.get(leads).address());
    }

    private static dev.pando.api.Record record(ByteBuffer key) {
      return new dev.pando.api.Record().setFound(true).setValue(key);
    }

    private void handle(int number, FakeServer.Request request) throws Exception {
      switch (request.method) {
        case "get" -> {
          ByteBuffer key = request.request(GetRequest.class).key;
          KvError error = error(number, key);
          GetReply found = new GetReply().setRecord(record(key));
          request.reply(new Kv.get_result().setSuccess(error == null ? found : null).setError(error));
        }
        case "multiGet" -> {
          List<MultiGetItem> items = request.request(MultiGetRequest.class).keys.stream()
              .map(key -> new MultiGetItem().setRecord(record(key)).setError(error(number, key))).toList();
          request.reply(new Kv.multiGet_result().setSuccess(new MultiGetReply().setItems(items)));
        }
        case "watch" -> {
          KvError error = error(number, request.request(WatchRequest.class).prefix);
          WatchReply reply = new WatchReply().setPosition(new byte[] {'p'}).setChanges(List.of(new Change()));
          request.reply(new Kv.watch_result().setSuccess(error == null ? reply : null).setError(error));
        }
        default -> {
          List<WriteResult> results = new ArrayList<>();
          for (WriteOp op : request.request(WriteBatchRequest.class).ops) {
            KvError error = error(number, op.key);
            results.add(new WriteResult().setApplied(error == null).setError(error));
          }
          request.reply(new Kv.writeBatch_result().setSuccess(new WriteBatchReply().setResults(results)));
        }
      }
    }

    int requests() {
      return servers.stream().mapToInt(server -> server.requests.size()).sum();
    }

    @Override
    public void close() throws IOException {
      for (FakeServer server : servers) server.close();
    }
  }

  @ParameterizedTest
  @EnumSource
  void aCallGoesToTheMasterThatAnErrorNames(Kind kind) throws Exception {
    try (Nodes nodes = new Nodes(3, null); Client client = Client.open(kind, nodes.addresses())) {
      for (String key : List.of("0", "1", "2", "0", "2", "1")) {
        int before = nodes.requests();
        assertEquals(key, client.kv().get(key).orElseThrow().valueAsString());
        assertTrue(nodes.requests() - before <= 2);
      }
      for (FakeServer node : nodes.servers) assertTrue(node.connections.get() <= 1);
    }
  }

  @ParameterizedTest
  @EnumSource
  void batchesAndMultiGetCollectTheirParts(Kind kind) throws Exception {
    String[] keys = {"0a", "1a", "2a", "1b", "0b"};
    try (Nodes nodes = new Nodes(3, null); Client client = Client.open(kind, nodes.addresses())) {
      WriteBatch batch = new WriteBatch();
      for (String key : keys) batch.put(key, "v");
      BatchResult result = client.kv().writeBatch(batch);
      assertTrue(result.allApplied());
      assertTrue(result.results().stream().allMatch(one -> one.error().isEmpty()));
      assertEquals(List.of(keys), client.kv().multiGet(keys).stream().map(r -> r.orElseThrow().valueAsString()).toList());
    }
  }

  @Test
  void watchesGoToTheMasterToo() throws Exception {
    try (Nodes nodes = new Nodes(3, null); PandoClient client = PandoClient.connect(nodes.addresses());
        PandoAsyncClient async = PandoAsyncClient.connect(nodes.addresses())) {
      for (String prefix : List.of("0", "1", "2")) {
        int before = nodes.requests();
        try (WatchIterator watch = client.watch(prefix)) {
          for (int i = 0; i < 5; ++i) watch.next();
        }
        assertEquals(1, async.watch(prefix, WatchOptions.create()).poll(0, Duration.ofSeconds(1)).join().changes().size());
        assertTrue(nodes.requests() - before <= 9);
      }
    }
  }

  /** The master is found by trying the addresses that were given. */
  @ParameterizedTest
  @EnumSource
  void anAddressThatWasNotGivenIsNotFollowed(Kind kind) throws Exception {
    try (FakeServer stranger = new FakeServer(r -> { }); Nodes nodes = new Nodes(2, stranger.address());
        Client client = Client.open(kind, nodes.addresses()); Client lonely = Client.open(kind, nodes.addresses()[0])) {
      for (int i = 0; i < 4; ++i) assertTrue(client.kv().get("1").isPresent());
      assertThrows(DeadlineException.class, () -> lonely.kv().get("1", BRIEF));
      assertEquals(0, stranger.connections.get());
    }
  }

  @ParameterizedTest
  @EnumSource
  void nonsenseInsteadOfAnAddress(Kind kind) throws Exception {
    for (String name : List.of("", "nowhere", "::", "host:0", "host:99999999", "\0", "[::1", "x".repeat(10_000))) {
      try (Nodes nodes = new Nodes(2, name); Client client = Client.open(kind, nodes.addresses())) {
        assertTrue(client.kv().get("1").isPresent(), name);
      }
    }
  }

  @ParameterizedTest
  @EnumSource
  void nodesThatNameEachOtherAreAskedAgainOnlyAfterAWait(Kind kind) throws Exception {
    String[] addresses = new String[2];
    try (FakeServer first = new FakeServer(r -> r.reply(new Kv.get_result().setError(notMaster(addresses[1]))));
        FakeServer second = new FakeServer(r -> r.reply(new Kv.get_result().setError(notMaster(addresses[0]))))) {
      addresses[0] = first.address();
      addresses[1] = second.address();
      try (Client client = Client.open(kind, addresses)) {
        assertThrows(DeadlineException.class, () -> client.kv().get("k", BRIEF));
      }
      int tries = first.requests.size() + second.requests.size();
      assertTrue(tries > 2 && tries <= 52, () -> tries + " tries in a second, with waits of 20 ms");
    }
  }

  @ParameterizedTest
  @EnumSource
  void aMasterThatCannotBeReachedIsLeft(Kind kind) throws Exception {
    try (java.net.Socket bound = FakeServer.bound()) {
      String dead = "127.0.0.1:" + bound.getLocalPort();
      try (Nodes nodes = new Nodes(2, dead)) {
        String[] addresses = Stream.concat(Stream.of(nodes.addresses()), Stream.of(dead)).toArray(String[]::new);
        try (Client client = Client.open(kind, addresses)) {
          assertTrue(client.kv().get("1").isPresent());
          DeadlineException error = assertThrows(DeadlineException.class, () -> client.kv().get("9", BRIEF));
          assertTrue(error.tries() > 2);
        }
      }
    }
  }

  @ParameterizedTest
  @EnumSource
  void aServerThatIsUnavailableSendsTheCallToTheNextOne(Kind kind) throws Exception {
    try (FakeServer cut = new FakeServer(r -> r.error(pandoConstants.UNAVAILABLE, pandoConstants.APPLIED_NO, true));
        Nodes nodes = new Nodes(1, null)) {
      for (int i = 0; i < 8; ++i) {
        try (Client client = Client.open(kind, cut.address(), nodes.addresses()[0])) {  // it begins at a random one
          for (int j = 0; j < 5; ++j) client.kv().get("0");
        }
      }
      assertTrue(cut.requests.size() <= 8, () -> cut.requests.size() + " of 40 calls came where none is answered");
    }
  }

  @Test
  void eachAddressHasAConnectionHoweverSmallThePoolIs() throws Exception {
    try (Nodes nodes = new Nodes(3, null); PandoAsyncClient client =
        PandoAsyncClient.connect(ClientOptions.builder(nodes.addresses()).poolSize(1).build())) {
      List<String> keys = IntStream.range(0, 900).mapToObj(i -> i % 3 + "/" + i).toList();
      List<CompletableFuture<String>> found =
          keys.stream().map(key -> client.get(key).thenApply(r -> r.orElseThrow().valueAsString())).toList();
      assertEquals(keys, found.stream().map(CompletableFuture::join).toList());
      int connections = nodes.servers.stream().mapToInt(node -> node.connections.get()).sum();
      assertTrue(connections <= 4, () -> connections + " connections: one of the pool, and one for each address");
    }
  }

  @Test
  void idleConnectionsAreBounded() throws Exception {
    try (Nodes nodes = new Nodes(3, null);
        PandoClient client = PandoClient.connect(ClientOptions.builder(nodes.addresses()).poolSize(1).build())) {
      for (int i = 0; i < 30; ++i) assertEquals("" + i % 3, client.get("" + i % 3).orElseThrow().valueAsString());
      assertTrue(nodes.servers.stream().mapToInt(FakeServer::open).sum() <= 2);
    }
  }
}
