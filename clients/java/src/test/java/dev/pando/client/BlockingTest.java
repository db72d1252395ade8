package dev.pando.client;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.pando.api.GetReply;
import dev.pando.api.Kv;
import dev.pando.api.KvError;
import dev.pando.api.ReleaseSnapshotReply;
import dev.pando.api.ReplyContext;
import dev.pando.api.ScanReply;
import dev.pando.api.ScanRequest;
import dev.pando.api.SnapshotReply;
import dev.pando.api.WatchReply;
import dev.pando.api.WatchRequest;
import dev.pando.api.WriteBatchReply;
import dev.pando.api.pandoConstants;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.concurrent.ConcurrentLinkedDeque;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** What only the blocking client does: its pool, iterators, and threads that are interrupted. */
@Timeout(30)
class BlockingTest {
  private static Kv.get_result absent() {
    return new Kv.get_result().setSuccess(new GetReply().setRecord(new dev.pando.api.Record()));
  }

  /** Has the rows row0 to row6; a cursor is the number of the next one. */
  private static void scan(FakeServer.Request request) throws Exception {
    ScanRequest asked = request.request(ScanRequest.class);
    String cursor = Bytes.text(Bytes.copy(asked.cursor));
    int next = cursor.isEmpty() ? 0 : Integer.parseInt(cursor);
    ScanReply reply = new ScanReply().setRows(new ArrayList<>());
    int most = asked.limit_rows == 0 ? 3 : Math.min(3, asked.limit_rows);
    for (int i = 0; i < most && next < 7; ++i, ++next) {
      reply.addToRows(new dev.pando.api.Row().setKey(("row" + next).getBytes()).setValue(new byte[0]));
    }
    if (next < 7) reply.setCursor(Integer.toString(next).getBytes());
    request.reply(new Kv.scan_result().setSuccess(reply));
  }

  @Test
  void scansGoPageByPage() throws Exception {
    try (FakeServer server = new FakeServer(BlockingTest::scan); PandoClient client = PandoClient.connect(server.address());
        ScanIterator rows = client.scan(KeyRange.all())) {
      assertEquals(0, rows.cursor().length);
      for (int i = 0; i < 3; ++i) assertEquals("row" + i, rows.next().keyAsString());
      assertEquals("3", Bytes.text(rows.cursor()));
      rows.next();
      assertEquals("3", Bytes.text(rows.cursor()), "row3 was taken, but row4 and row5 must not be missed");
      assertEquals(List.of("row4", "row5", "row6"), rows.stream().map(Row::keyAsString).toList());
      assertEquals(0, rows.cursor().length);
      assertEquals(3, rows.pages());
    }
  }

  @Test
  void scansEndAtTheirLimit() throws Exception {
    try (FakeServer server = new FakeServer(BlockingTest::scan); PandoClient client = PandoClient.connect(server.address())) {
      try (ScanIterator rows = client.scan(KeyRange.all(), ScanOptions.create().limit(5))) {
        assertEquals(5, rows.stream().count());
        assertEquals("5", Bytes.text(rows.cursor()));
      }
      assertEquals(2, server.requests.get(1).request(ScanRequest.class).limit_rows);
      assertFalse(client.scan(KeyRange.all(), ScanOptions.create().limit(0)).hasNext());
      assertEquals(2, server.requests.size());
    }
  }

  /** Each reply has two changes; a position is the number of the next one. */
  private static void watch(FakeServer.Request request) throws Exception {
    WatchRequest asked = request.request(WatchRequest.class);
    String position = Bytes.text(Bytes.copy(asked.position));
    WatchReply reply = new WatchReply().setChanges(new ArrayList<>());
    int next = position.isEmpty() ? 10 : Integer.parseInt(position);
    for (int i = 0; i < 2 && asked.wait_ms > 0; ++i, ++next) {
      reply.addToChanges(new dev.pando.api.Change().setKey(("key" + next).getBytes()).setVersion(next));
    }
    request.reply(new Kv.watch_result().setSuccess(reply.setPosition(Integer.toString(next).getBytes())));
  }

  @Test
  void watchesNeverSkipAChange() throws Exception {
    try (FakeServer server = new FakeServer(BlockingTest::watch);
        PandoClient client = PandoClient.connect(server.address()); WatchIterator watch = client.watch("key")) {
      assertEquals("10", Bytes.text(watch.position()));
      assertEquals("key10", watch.next().keyAsString());
      assertEquals("10", Bytes.text(watch.position()), "key11 must not be missed");
      assertEquals("key11", watch.next().keyAsString());
      assertEquals("12", Bytes.text(watch.position()));
      WatchPage page = watch.poll(0, Duration.ofSeconds(1));
      assertEquals("14", Bytes.text(page.position()));
      assertArrayEquals(page.position(), watch.position());
      assertEquals(1, server.requests.stream().map(request -> request.connection).distinct().count());
    }
  }

  @Test
  void closingAWatchEndsTheWaiting() throws Exception {
    CountDownLatch waits = new CountDownLatch(1);
    FakeServer.Script script = request -> {
      if (request.request(WatchRequest.class).wait_ms == 0) {
        watch(request);
      } else {
        waits.countDown();
      }
    };
    try (FakeServer server = new FakeServer(script); PandoClient client = PandoClient.connect(server.address())) {
      WatchIterator watch = client.watch("key");
      Thread closer = new Thread(() -> {
        try {
          waits.await();
          watch.close();
        } catch (InterruptedException e) {
          throw new IllegalStateException(e);
        }
      });
      closer.start();
      assertFalse(watch.hasNext());
    }
  }

  @Test
  void aThreadThatIsInterruptedStopsWaiting() throws Exception {
    CountDownLatch came = new CountDownLatch(1);
    try (FakeServer server = new FakeServer(request -> came.countDown());
        PandoClient client = PandoClient.connect(server.address())) {
      Thread caller = Thread.currentThread();
      new Thread(() -> {
        try {
          came.await();
          caller.interrupt();
        } catch (InterruptedException e) {
          throw new IllegalStateException(e);
        }
      }).start();
      PandoException error = assertThrows(PandoException.class, () -> client.put("k", "v"));
      assertTrue(Thread.interrupted());
      assertEquals(ErrorCode.CLOSED, error.code());
      assertEquals(Applied.UNKNOWN, error.applied());
    }
  }

  /** Waiting for the turn in a session is a part of the call. */
  @Test
  void aCallOfASessionThatWaitsEndsInTimeAndWhenItIsInterrupted() throws Exception {
    CountDownLatch came = new CountDownLatch(1);
    try (FakeServer server = new FakeServer(request -> came.countDown());
        PandoClient client = PandoClient.connect(server.address())) {
      Session session = client.session();
      Thread first = new Thread(() -> assertThrows(PandoException.class, () -> session.get("k")));
      first.start();
      came.await();
      DeadlineException late = assertThrows(DeadlineException.class,
          () -> session.put("k", "v", WriteOptions.create().timeout(Duration.ofMillis(50))));
      assertEquals(Applied.NO, late.applied());
      Thread.currentThread().interrupt();
      PandoException error = assertThrows(PandoException.class, () -> session.put("k", "v"));
      assertTrue(Thread.interrupted());
      assertEquals(ErrorCode.CLOSED, error.code());
      assertEquals(Applied.NO, error.applied());
      assertEquals(1, server.requests.size());
      assertTrue(first.isAlive());
      client.close();
      first.join();
    }
  }

  @Test
  void callsWaitForAConnectionOfThePool() throws Exception {
    CountDownLatch go = new CountDownLatch(1);
    CountDownLatch came = new CountDownLatch(2);
    FakeServer.Script script = request -> {
      came.countDown();
      go.await();
      request.reply(absent());
    };
    try (FakeServer server = new FakeServer(script);
        PandoClient client = PandoClient.connect(ClientOptions.builder(server.address()).poolSize(2).build())) {
      List<Thread> threads = new ArrayList<>();
      for (int i = 0; i < 2; ++i) threads.add(new Thread(() -> client.get("k")));
      threads.forEach(Thread::start);
      came.await();
      DeadlineException error = assertThrows(DeadlineException.class,
          () -> client.put("k", "v", WriteOptions.create().timeout(Duration.ofMillis(100))));
      assertEquals(Applied.NO, error.applied());
      assertEquals(0, error.tries());
      go.countDown();
      for (Thread thread : threads) thread.join();
      assertTrue(client.get("k").isEmpty());
      assertEquals(2, server.connections.get());
    }
  }

  @Test
  void snapshotsAreRenewedAndReleased() throws Exception {
    CountDownLatch renewed = new CountDownLatch(2);
    SnapshotReply snapshot = new SnapshotReply().setSnapshot("s".getBytes()).setVersion(5);
    FakeServer.Script script = request -> {
      switch (request.method) {
        case "openSnapshot" -> request.reply(new Kv.openSnapshot_result().setSuccess(snapshot));
        case "renewSnapshot" -> {
          renewed.countDown();
          request.reply(new Kv.renewSnapshot_result().setSuccess(snapshot));
        }
        default -> request.reply(
            new Kv.releaseSnapshot_result().setSuccess(new ReleaseSnapshotReply().setExisted(true)));
      }
    };
    try (FakeServer server = new FakeServer(script); PandoClient client = PandoClient.connect(server.address())) {
      try (Snapshot opened = client.snapshot(Duration.ofMillis(60))) {
        assertEquals(5, opened.version());
        assertTrue(renewed.await(10, TimeUnit.SECONDS));
      }
      assertEquals(1, server.requests("releaseSnapshot").size());
    }
  }

  private static FakeServer.Script batchOf(ReplyContext context, KvError... errors) {
    List<dev.pando.api.WriteResult> results = new ArrayList<>();
    for (KvError error : errors) {
      dev.pando.api.WriteResult result = new dev.pando.api.WriteResult();
      results.add(error == null ? result.setApplied(true) : result.setError(error));
    }
    WriteBatchReply reply = new WriteBatchReply().setResults(results);
    if (context != null) reply.setContext(context);
    return request -> request.reply(new Kv.writeBatch_result().setSuccess(reply));
  }

  private static KvError failure(int code, int applied, int retryAfterMillis) {
    KvError error = new KvError().setCode(code).setMessage("told to").setApplied(applied);
    return error.setRetryable(true).setRetry_after_ms(retryAfterMillis);
  }

  /** A node that has applied nothing of a batch sends no token: that tells nothing of what the session has seen. */
  @Test
  void aBatchOfWhichNothingWasAppliedTellsNothingOfTheToken() throws Exception {
    KvError notMaster = failure(pandoConstants.NOT_MASTER, pandoConstants.APPLIED_NO, 1);
    KvError none = null;
    ReplyContext token = new ReplyContext().setSession("token".getBytes());
    Deque<FakeServer.Script> left = new ConcurrentLinkedDeque<>(List.of(batchOf(null, notMaster), batchOf(token, none),
        batchOf(null, notMaster), batchOf(token, none)));
    FakeServer.Script script = request -> {
      if (request.method.equals("get")) {
        Kv.get_result result = absent();
        result.success.setContext(token);
        request.reply(result);
      } else {
        left.poll().handle(request);
      }
    };
    try (FakeServer server = new FakeServer(script); PandoClient client = PandoClient.connect(server.address())) {
      Session session = client.session();
      for (int i = 0; i < 2; ++i) {
        session.writeBatch(new WriteBatch().put("k", "v"));
        session.get("k");
      }
      assertEquals(4, server.requests("writeBatch").size());
      for (FakeServer.Request get : server.requests("get")) assertEquals(Level.SESSION.code, get.context().level);
    }
  }

  @Test
  void theLaneOfABatchWithAnUnknownOpIsNotUsedAgainAfterAnInterrupt() throws Exception {
    FakeServer.Script batch = batchOf(null, failure(pandoConstants.UNAVAILABLE, pandoConstants.APPLIED_UNKNOWN, 0),
        failure(pandoConstants.OVERLOADED, pandoConstants.APPLIED_NO, 5000));
    FakeServer.Script script = request -> {
      if (request.method.equals("writeBatch")) {
        batch.handle(request);
      } else {
        request.reply(new Kv.put_result().setSuccess(new dev.pando.api.WriteResult().setApplied(true)));
      }
    };
    try (FakeServer server = new FakeServer(script); PandoClient client = PandoClient.connect(server.address())) {
      Thread caller = Thread.currentThread();
      new Thread(() -> {
        while (server.requests.isEmpty() || caller.getState() != Thread.State.TIMED_WAITING) Thread.onSpinWait();
        caller.interrupt();  // it waits for the next try
      }).start();
      WriteBatch ops = new WriteBatch().put("a", "1").put("b", "2");
      PandoException error = assertThrows(PandoException.class, () -> client.writeBatch(ops));
      assertTrue(Thread.interrupted());
      assertEquals(ErrorCode.CLOSED, error.code());
      assertEquals(Applied.UNKNOWN, error.applied());
      client.put("k", "v");
      assertEquals(2, server.requests.size());
      assertNotEquals(server.requests.get(0).lane(), server.requests.get(1).lane());
      assertEquals(1, server.requests.get(1).context().sequence);
    }
  }

  /** Replicas may lack a snapshot, and a token that is missing covers nothing. */
  @Test
  void aSessionReadsAtTheLevelThatItCan() throws Exception {
    FakeServer.Script script = request -> {
      Kv.get_result result = absent();
      if (request.sequence < 4) result.success.setContext(new ReplyContext().setSession("token".getBytes()));
      request.reply(result);
    };
    try (FakeServer server = new FakeServer(script); PandoClient client = PandoClient.connect(server.address())) {
      Session session = client.session();
      session.get("k");
      session.get("k", ReadOptions.create().snapshot("s".getBytes()));
      session.get("k");
      session.get("k");
      session.get("k", ReadOptions.create().level(Level.SESSION));
      int session6 = Level.SESSION.code;
      assertEquals(List.of(session6, 0, session6, Level.LINEARIZABLE.code, session6),
          server.requests.stream().map(request -> request.context().level).toList());
      assertEquals("token", Bytes.text(session.token()));
    }
  }

  @Test
  void addressesAreRead() {
    assertEquals(new Address("::1", 7450), Address.parse("[::1]:7450"));
    assertEquals("[::1]:7450", Address.parse("[::1]:7450").toString());
    assertEquals(new Address("host", 1), Address.parse("host:1"));
    for (String bad : List.of("", "host", "host:", ":1", "host:0", "host:65536", "::1:7450", "host:x")) {
      assertThrows(IllegalArgumentException.class, () -> Address.parse(bad), bad);
    }
  }

  /** An address that is given twice is one: its failures count for both. */
  @Test
  void anAddressIsAvoidedAfterItFailed() {
    List<Address> addresses = ClientOptions.builder("a:1", "b:1", "a:1").build().addresses;
    assertEquals(2, addresses.size());
    AddressBook book = new AddressBook(addresses);
    Address first = book.choose();
    assertEquals(first, book.choose());
    book.failed(first);
    Address second = book.choose();
    assertFalse(first.equals(second));
    assertTrue(book.hasFresh());
    book.failed(second);
    assertFalse(book.hasFresh());
    assertEquals(first, book.choose());
    book.worked(second);
    assertEquals(second, book.choose());
  }

  @Test
  void lanesComeBackOnlyIfTheOutcomeIsKnown() {
    LanePool lanes = new LanePool();
    LanePool.Name first = lanes.begin();
    LanePool.Name second = lanes.begin();
    assertEquals(1, second.sequence);
    lanes.end(first, true);
    LanePool.Name third = lanes.begin();
    assertEquals(first.lane, third.lane);
    assertEquals(2, third.sequence);
    lanes.end(third, false);
    assertEquals(1, lanes.begin().sequence);
  }

  @Test
  void codesHaveNamesAndAdvice() {
    assertEquals("CODE_99", ErrorCode.name(99));
    assertEquals("FEED_GONE", ErrorCode.name(20));
    for (int code = 1; code <= 21; ++code) assertTrue(ErrorCode.advice(code).endsWith("."));
  }
}
