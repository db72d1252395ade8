package dev.pando.client;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.pando.api.GetReply;
import dev.pando.api.Kv;
import dev.pando.api.KvError;
import dev.pando.api.MultiGetItem;
import dev.pando.api.MultiGetReply;
import dev.pando.api.ReplyContext;
import dev.pando.api.pandoConstants;
import java.io.IOException;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.thrift.TApplicationException;
import org.apache.thrift.protocol.TMessageType;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** What both clients do when a server lies, dies, or is silent. */
@Timeout(30)
class FaultsTest {
  private static final Duration SHORT = Duration.ofMillis(300);

  enum Kind { BLOCKING, ASYNC }

  /** A client of one of the kinds, and its calls. */
  record Client(KvCommands kv, AutoCloseable closing) implements AutoCloseable {
    static Client open(Kind kind, String... addresses) {
      ClientOptions options = ClientOptions.builder(addresses).timeout(Duration.ofSeconds(10)).build();
      if (kind == Kind.BLOCKING) {
        PandoClient client = PandoClient.connect(options);
        return new Client(client, client);
      }
      PandoAsyncClient client = PandoAsyncClient.connect(options);
      return new Client(new BlockingOverAsync(client), client);
    }

    @Override
    public void close() throws Exception {
      closing.close();
    }
  }

  private static Kv.put_result written() {
    return new Kv.put_result().setSuccess(new dev.pando.api.WriteResult().setApplied(true).setVersion(7));
  }

  private static Kv.get_result found(byte[] value) {
    dev.pando.api.Record record = new dev.pando.api.Record().setFound(true).setValue(value).setVersion(3);
    return new Kv.get_result().setSuccess(new GetReply().setRecord(record));
  }

  /** Does something else with the first request, and answers the others. */
  private static FakeServer.Script onceThenWritten(FakeServer.Script first) {
    return new FakeServer.Script() {
      private int count;

      @Override
      public void handle(FakeServer.Request request) throws Exception {
        int number;
        synchronized (this) {
          number = count++;
        }
        if (number == 0) {
          first.handle(request);
        } else {
          request.reply(written());
        }
      }
    };
  }

  /** The write is sent again under its name, over a new connection. */
  private static void assertRepeated(Kind kind, FakeServer.Script first) throws Exception {
    try (FakeServer server = new FakeServer(onceThenWritten(first)); Client client = Client.open(kind, server.address())) {
      assertEquals(7, client.kv().put("k", "v").version());
      List<FakeServer.Request> puts = server.requests("put");
      assertEquals(2, puts.size());
      assertNotEquals(puts.get(0).connection, puts.get(1).connection);
      assertEquals(32, puts.get(0).lane().length());
      assertEquals(puts.get(0).lane(), puts.get(1).lane());
      assertEquals(1, puts.get(0).context().sequence);
      assertEquals(1, puts.get(1).context().sequence);
      assertTrue(puts.get(0).context().first_sent_ms >= 1_000_000);
      assertEquals(puts.get(0).context().first_sent_ms, puts.get(1).context().first_sent_ms);
      client.kv().put("k", "v");
      assertEquals(puts.get(0).lane(), server.requests("put").get(2).lane());
      assertEquals(2, server.requests("put").get(2).context().sequence);
    }
  }

  private static void assertOutcome(Applied applied, boolean retryable, Runnable call) {
    PandoException error = assertThrows(PandoException.class, call::run);
    assertEquals(applied, error.applied());
    assertEquals(retryable, error.retryable());
  }

  @ParameterizedTest
  @EnumSource
  void aWriteOfUnknownOutcomeIsNotRetryable(Kind kind) throws Exception {
    WriteOptions options = WriteOptions.create().timeout(SHORT);
    FakeServer.Script cut = request -> {
      throw new IOException("cut");
    };
    try (FakeServer server = new FakeServer(cut); Client client = Client.open(kind, server.address())) {
      KvCommands kv = client.kv();
      assertOutcome(Applied.UNKNOWN, false, () -> kv.put("k", "v", options));
      assertOutcome(Applied.UNKNOWN, false,
          () -> kv.put("k", "v", WriteOptions.create().level(Level.ONE)));
      assertOutcome(Applied.NO, true, () -> kv.get("k", ReadOptions.create().timeout(SHORT)));
      assertOutcome(Applied.UNKNOWN, true,
          () -> kv.deleteRange(KeyRange.prefix("k"), DeleteOptions.create().timeout(SHORT)));
    }
    try (FakeServer server = new FakeServer(request -> request.error(pandoConstants.DENIED, 0, true));
        Client client = Client.open(kind, server.address())) {
      assertOutcome(Applied.UNKNOWN, false,
          () -> client.kv().put("k", "v", WriteOptions.create().level(Level.ONE)));
    }
  }

  @ParameterizedTest
  @EnumSource
  void anotherSequenceId(Kind kind) throws Exception {
    assertRepeated(kind, r -> r.reply("put", r.sequence + 1000, TMessageType.REPLY, written()));
  }

  @ParameterizedTest
  @EnumSource
  void theReplyToAnotherMethod(Kind kind) throws Exception {
    assertRepeated(kind, r -> r.reply("remove", r.sequence, TMessageType.REPLY, written()));
  }

  @ParameterizedTest
  @EnumSource
  void aMessageThatIsNoReply(Kind kind) throws Exception {
    assertRepeated(kind, r -> r.reply("put", r.sequence, TMessageType.CALL, written()));
  }

  @ParameterizedTest
  @EnumSource
  void aReplyWithoutResult(Kind kind) throws Exception {
    assertRepeated(kind, r -> r.reply(new Kv.put_result()));
  }

  @ParameterizedTest
  @EnumSource
  void garbage(Kind kind) throws Exception {
    assertRepeated(kind, r -> r.frame("HTTP/1.1 400 Bad Request\r\n\r\n".getBytes()));
  }

  @ParameterizedTest
  @EnumSource
  void anImpossibleLength(Kind kind) throws Exception {
    assertRepeated(kind, r -> r.raw("HTTP/1.1 400 Bad Request\r\n\r\n".getBytes()));
  }

  @ParameterizedTest
  @EnumSource
  void anEnvelopeThatEndsEarly(Kind kind) throws Exception {
    assertRepeated(kind, r -> r.frame(new byte[] {(byte) 0x80, 1, 0, 2, 0, 0, 0, 3, 'p'}));
  }

  @ParameterizedTest
  @EnumSource
  void aCutBeforeTheReply(Kind kind) throws Exception {
    assertRepeated(kind, r -> {
      throw new IOException("cut");
    });
  }

  @ParameterizedTest
  @EnumSource
  void aCutWithinTheReply(Kind kind) throws Exception {
    assertRepeated(kind, r -> {
      r.raw(new byte[] {0, 0, 1, 0, (byte) 0x80, 1});
      throw new IOException("cut");
    });
  }

  @ParameterizedTest
  @EnumSource
  void anExceptionThatBelongsToAnotherRequest(Kind kind) throws Exception {
    for (int type : new int[] {3, 4, 5}) {
      assertRepeated(kind, r -> r.reply("put", r.sequence, TMessageType.EXCEPTION, new Application(type)));
    }
  }

  /** TApplicationException is no TBase. */
  private static final class Application extends Kv.put_result {
    private static final long serialVersionUID = 1;
    private final int type;

    Application(int type) {
      this.type = type;
    }

    @Override
    public void write(org.apache.thrift.protocol.TProtocol protocol) throws org.apache.thrift.TException {
      new TApplicationException(type, "told to").write(protocol);
    }
  }

  @ParameterizedTest
  @EnumSource
  void aRequestThatTheServerCannotReadIsNotTriedAgain(Kind kind) throws Exception {
    int[] types = {1, 2, 7, 8, 9, 10};
    for (int type : types) {
      try (FakeServer server = new FakeServer(
          r -> r.reply("put", r.sequence, TMessageType.EXCEPTION, new Application(type)));
          Client client = Client.open(kind, server.address())) {
        BadRequestException error = assertThrows(BadRequestException.class, () -> client.kv().put("k", "v"));
        assertEquals(Applied.NO, error.applied());
        assertThrows(BadRequestException.class, () -> client.kv().put("k", "v"));
        assertEquals(2, server.requests.size());
        assertEquals(server.requests.get(0).lane(), server.requests.get(1).lane());
        assertEquals(1, server.connections.get());
      }
    }
  }

  /** Its lane is not used again. */
  @ParameterizedTest
  @EnumSource
  void anExceptionThatSaysNothingOfTheOutcome(Kind kind) throws Exception {
    for (int type : new int[] {6, 0, 77, -1}) {
      try (FakeServer server = new FakeServer(
          r -> r.reply(r.method, r.sequence, TMessageType.EXCEPTION, new Application(type)));
          Client client = Client.open(kind, server.address())) {
        assertEquals(Applied.UNKNOWN, assertThrows(InternalException.class, () -> client.kv().put("k", "v")).applied());
        assertEquals(Applied.NO, assertThrows(InternalException.class, () -> client.kv().get("k")).applied());
        assertThrows(InternalException.class, () -> client.kv().put("k", "v"));
        assertEquals(3, server.requests.size());
        assertNotEquals(server.requests.get(0).lane(), server.requests.get(2).lane());
      }
    }
  }

  @ParameterizedTest
  @EnumSource
  void connectionsThatWereClosedWhileIdle(Kind kind) throws Exception {
    try (FakeServer server = new FakeServer(r -> r.reply(written())); Client client = Client.open(kind, server.address())) {
      for (int i = 0; i < 5; ++i) {
        client.kv().put("k", "v");
        server.closeConnections();
      }
      client.kv().put("k", "v");
      assertEquals(1, server.requests.stream().map(FakeServer.Request::lane).distinct().count());
    }
  }

  @ParameterizedTest
  @EnumSource
  void silence(Kind kind) throws Exception {
    try (FakeServer server = new FakeServer(r -> { }); Client client = Client.open(kind, server.address())) {
      long began = System.nanoTime();
      DeadlineException read = assertThrows(DeadlineException.class,
          () -> client.kv().get("k", ReadOptions.create().timeout(SHORT)));
      assertEquals(Applied.NO, read.applied());
      assertEquals(1, read.tries());
      assertInstanceOf(TransportException.class, read.getCause());
      DeadlineException write = assertThrows(DeadlineException.class,
          () -> client.kv().put("k", "v", WriteOptions.create().timeout(SHORT)));
      assertEquals(Applied.UNKNOWN, write.applied());
      assertTrue(TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - began) < 3000);
      assertThrows(DeadlineException.class, () -> client.kv().put("k", "v", WriteOptions.create().timeout(SHORT)));
      List<FakeServer.Request> puts = server.requests("put");
      assertNotEquals(puts.get(0).lane(), puts.get(1).lane());
      assertTrue(puts.get(0).context().budget_ms <= 300);
    }
  }

  /** A plain socket of Java would wait without end. The server cannot have the whole request. */
  @ParameterizedTest
  @EnumSource
  void aServerThatDoesNotRead(Kind kind) throws Exception {
    try (SilentListener listener = new SilentListener(); Client client = Client.open(kind, listener.address())) {
      DeadlineException error = assertThrows(DeadlineException.class,
          () -> client.kv().put(new byte[1], new byte[32 << 20], WriteOptions.create().timeout(SHORT)));
      assertEquals(Applied.NO, error.applied());
    }
  }

  /** Says hello, and then reads nothing. */
  private static final class SilentListener implements AutoCloseable {
    private final java.net.ServerSocket listener =
        new java.net.ServerSocket(0, 5, java.net.InetAddress.getLoopbackAddress());

    SilentListener() throws IOException {
      Thread thread = new Thread(this::serve);
      thread.setDaemon(true);
      thread.start();
    }

    String address() {
      return "127.0.0.1:" + listener.getLocalPort();
    }

    private void serve() {
      while (!listener.isClosed()) {
        try {
          java.net.Socket socket = listener.accept();
          java.io.DataInputStream in = new java.io.DataInputStream(socket.getInputStream());
          byte[] frame = new byte[in.readInt()];
          in.readFully(frame);
          new FakeServer.Request(frame, new java.io.DataOutputStream(socket.getOutputStream()), 0)
              .reply(new Kv.hello_result().setSuccess(FakeServer.hello("idempotent_writes")));
        } catch (Exception e) {
          return;
        }
      }
    }

    @Override
    public void close() throws IOException {
      listener.close();
    }
  }

  /** Thrift's library has a limit of 16 MB for frames, unless it is told otherwise; and it gives views of the frame. */
  @ParameterizedTest
  @EnumSource
  void largeReplies(Kind kind) throws Exception {
    byte[] value = new byte[40 << 20];
    value[value.length - 1] = 1;
    try (FakeServer server = new FakeServer(r -> r.reply(found(value))); Client client = Client.open(kind, server.address())) {
      assertArrayEquals(value, client.kv().get("k").orElseThrow().value());
    }
  }

  @ParameterizedTest
  @EnumSource
  void aRequestAboveTheServersLimitIsNotSent(Kind kind) throws Exception {
    try (FakeServer server = new FakeServer(r -> r.reply(written())); Client client = Client.open(kind, server.address())) {
      server.hello = FakeServer.hello("idempotent_writes")
          .setLimits(new dev.pando.api.Limits().setMax_frame_bytes(1000));
      BadRequestException error = assertThrows(BadRequestException.class,
          () -> client.kv().put(new byte[1], new byte[1000]));
      assertEquals(ErrorCode.TOO_LARGE, error.code());
      assertEquals(Applied.NO, error.applied());
      client.kv().put("k", "v");
      assertEquals(1, server.connections.get());
    }
  }

  @ParameterizedTest
  @EnumSource
  void writesWithoutNameAreNotRepeatedBlindly(Kind kind) throws Exception {
    try (FakeServer server = new FakeServer(r -> {
      throw new IOException("cut");
    }); Client client = Client.open(kind, server.address())) {
      TransportException error = assertThrows(TransportException.class,
          () -> client.kv().put("k", "v", WriteOptions.create().level(Level.ONE)));
      assertEquals(Applied.UNKNOWN, error.applied());
      assertEquals("", server.requests.get(0).lane());
      server.hello = FakeServer.hello();
      try (Client other = Client.open(kind, server.address())) {
        assertThrows(TransportException.class, () -> other.kv().put("k", "v"));
      }
      assertEquals("", server.requests.get(1).lane());
      assertEquals(2, server.requests.size());
    }
  }

  @ParameterizedTest
  @EnumSource
  void aServerWithoutClocksGetsNone(Kind kind) throws Exception {
    Kv.put_result result = written();
    result.success.setContext(new ReplyContext().setHlc(1234));
    try (FakeServer server = new FakeServer(r -> r.reply(result)); Client client = Client.open(kind, server.address())) {
      client.kv().put("k", "v");
      client.kv().put("k", "v");
      assertEquals(1234, server.requests.get(1).context().hlc);
      server.hello = FakeServer.hello("idempotent_writes");
      server.closeConnections();
      client.kv().put("k", "v");
      assertEquals(0, server.requests.get(server.requests.size() - 1).context().hlc);
    }
  }

  @ParameterizedTest
  @EnumSource
  void aRefusalAfterALostAnswerLeavesTheOutcomeUnknown(Kind kind) throws Exception {
    FakeServer.Script script = new FakeServer.Script() {
      private int count;

      @Override
      public synchronized void handle(FakeServer.Request request) throws Exception {
        if (count++ == 0) throw new IOException("cut");
        request.error(pandoConstants.DISK_FULL, pandoConstants.APPLIED_NO, false);
      }
    };
    try (FakeServer server = new FakeServer(script); Client client = Client.open(kind, server.address())) {
      assertEquals(Applied.UNKNOWN, assertThrows(DiskFullException.class, () -> client.kv().put("k", "v")).applied());
      assertEquals(Applied.NO, assertThrows(DiskFullException.class, () -> client.kv().put("k", "v")).applied());
      assertNotEquals(server.requests.get(1).lane(), server.requests.get(2).lane());
    }
  }

  @ParameterizedTest
  @EnumSource
  void aKeyThatCannotBeReadIsTriedAgain(Kind kind) throws Exception {
    FakeServer.Script script = new FakeServer.Script() {
      private boolean failed;

      @Override
      public synchronized void handle(FakeServer.Request request) throws Exception {
        MultiGetItem item = new MultiGetItem().setRecord(new dev.pando.api.Record());
        if (!failed) item.setError(new KvError().setCode(pandoConstants.UNAVAILABLE).setRetryable(true));
        failed = true;
        request.reply(new Kv.multiGet_result().setSuccess(new MultiGetReply().setItems(List.of(item))));
      }
    };
    try (FakeServer server = new FakeServer(script); Client client = Client.open(kind, server.address())) {
      assertTrue(client.kv().multiGet("k").get(0).isEmpty());
      assertEquals(2, server.requests.size());
    }
  }

  /** A list that says that it is as long as an int can say takes no memory, and is garbage as any other. */
  @ParameterizedTest
  @EnumSource
  void aListWithoutItsEntries(Kind kind) throws Exception {
    FakeServer.Script script = new FakeServer.Script() {
      private int count;

      @Override
      public synchronized void handle(FakeServer.Request request) throws Exception {
        if (count++ > 0) {
          MultiGetItem item = new MultiGetItem().setRecord(new dev.pando.api.Record());
          request.reply(new Kv.multiGet_result().setSuccess(new MultiGetReply().setItems(List.of(item))));
          return;
        }
        java.nio.ByteBuffer lie = java.nio.ByteBuffer.allocate(64);
        lie.putInt(0x80010002).putInt(8).put("multiGet".getBytes()).putInt(request.sequence);
        lie.put((byte) 12).putShort((short) 0);  // success
        lie.put((byte) 15).putShort((short) 1).put((byte) 12).putInt(Integer.MAX_VALUE);  // items
        request.frame(java.util.Arrays.copyOf(lie.array(), lie.position()));
      }
    };
    try (FakeServer server = new FakeServer(script); Client client = Client.open(kind, server.address())) {
      assertTrue(client.kv().multiGet("k").get(0).isEmpty());
      assertEquals(2, server.requests("multiGet").size());
    }
  }

  @ParameterizedTest
  @EnumSource
  void nobodyListens(Kind kind) throws Exception {
    try (java.net.Socket bound = FakeServer.bound()) {
      String nobody = "127.0.0.1:" + bound.getLocalPort();
      try (Client client = Client.open(kind, nobody)) {
        DeadlineException error = assertThrows(DeadlineException.class,
            () -> client.kv().put("k", "v", WriteOptions.create().timeout(SHORT)));
        assertEquals(Applied.NO, error.applied());
        assertTrue(error.tries() > 1);
      }
      try (FakeServer server = new FakeServer(r -> r.reply(written()));
          Client client = Client.open(kind, nobody, server.address(), nobody)) {
        for (int i = 0; i < 10; ++i) client.kv().put("k", "v");
        assertEquals(1, server.connections.get());
      }
    }
  }

  /** For a second, which the test does not need. */
  @ParameterizedTest
  @EnumSource
  void anAddressWhoseConnectionsFailIsAvoided(Kind kind) throws Exception {
    try (FakeServer bad = new FakeServer(r -> {
      throw new IOException("cut");
    }); FakeServer good = new FakeServer(r -> r.reply(written()));
        Client client = Client.open(kind, bad.address(), good.address())) {
      for (int i = 0; i < 20; ++i) client.kv().put("k", "v");
      assertTrue(bad.requests.size() <= 1, () -> bad.requests.size() + " requests were sent where none is answered");
      assertEquals(20, good.requests.size());
    }
  }

  @ParameterizedTest
  @EnumSource
  void closingEndsTheCallsThatAreUnderWay(Kind kind) throws Exception {
    CountDownLatch came = new CountDownLatch(1);
    try (FakeServer server = new FakeServer(r -> came.countDown()); Client client = Client.open(kind, server.address())) {
      Thread closer = new Thread(() -> {
        try {
          came.await();
          client.close();
        } catch (Exception e) {
          throw new IllegalStateException(e);
        }
      });
      closer.start();
      PandoException error = assertThrows(PandoException.class, () -> client.kv().put("k", "v"));
      assertEquals(ErrorCode.CLOSED, error.code());
      assertEquals(Applied.UNKNOWN, error.applied());
      error = assertThrows(PandoException.class, () -> client.kv().put("k", "v"));
      assertEquals(ErrorCode.CLOSED, error.code());
      assertEquals(Applied.NO, error.applied());
    }
  }

  /** A call that waits for its next try ends too. */
  @ParameterizedTest
  @EnumSource
  void closingEndsTheCallsThatWait(Kind kind) throws Exception {
    CountDownLatch came = new CountDownLatch(4);
    try (FakeServer server = new FakeServer(r -> {
      r.error(pandoConstants.OVERLOADED, pandoConstants.APPLIED_NO, true);
      came.countDown();
    }); Client client = Client.open(kind, server.address())) {
      Thread closer = new Thread(() -> {
        try {
          came.await();
          client.close();
        } catch (Exception e) {
          throw new IllegalStateException(e);
        }
      });
      closer.start();
      assertEquals(ErrorCode.CLOSED, assertThrows(PandoException.class, () -> client.kv().put("k", "v")).code());
    }
  }
}
