package dev.pando.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.pando.api.CountReply;
import dev.pando.api.GetReply;
import dev.pando.api.GetRequest;
import dev.pando.api.Kv;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.thrift.protocol.TMessageType;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** What only the asynchronous client does: requests that share a connection. */
@Timeout(30)
class AsyncTest {
  private static void echo(FakeServer.Request request) throws Exception {
    byte[] key = Bytes.copy(request.request(GetRequest.class).key);
    dev.pando.api.Record record = new dev.pando.api.Record().setFound(true).setValue(key);
    request.reply(new Kv.get_result().setSuccess(new GetReply().setRecord(record)));
  }

  private static void assertEchoed(List<CompletableFuture<Optional<KvRecord>>> futures) {
    for (int i = 0; i < futures.size(); ++i) {
      assertEquals("k" + i, futures.get(i).join().orElseThrow().valueAsString());
    }
  }

  /** Answers in reverse, once so many requests have come. */
  private static FakeServer.Script inReverse(int many) {
    List<FakeServer.Request> waiting = new ArrayList<>();
    return request -> {
      synchronized (waiting) {
        waiting.add(request);
        if (waiting.size() < many) return;
        Collections.reverse(waiting);
        for (FakeServer.Request each : waiting) echo(each);
        waiting.clear();
      }
    };
  }

  @Test
  void repliesOvertakeEachOther() throws Exception {
    try (FakeServer server = new FakeServer(inReverse(100));
        PandoAsyncClient client = PandoAsyncClient.connect(server.address())) {
      List<CompletableFuture<Optional<KvRecord>>> futures = new ArrayList<>();
      for (int i = 0; i < 100; ++i) futures.add(client.get("k" + i));
      assertEchoed(futures);
      assertEquals(1, server.connections.get());
    }
  }

  @Test
  void aFullConnectionIsHelpedByAnotherOne() throws Exception {
    try (FakeServer server = new FakeServer(inReverse(300));
        PandoAsyncClient client = PandoAsyncClient.connect(server.address())) {
      List<CompletableFuture<Optional<KvRecord>>> futures = new ArrayList<>();
      for (int i = 0; i < 300; ++i) futures.add(client.get("k" + i));
      assertEchoed(futures);
      assertEquals(3, server.connections.get());
    }
  }

  @Test
  void callsWaitWhenAllConnectionsAreFull() throws Exception {
    CountDownLatch go = new CountDownLatch(1);
    FakeServer.Script script = request -> {
      go.await();
      echo(request);
    };
    try (FakeServer server = new FakeServer(script); PandoAsyncClient client =
        PandoAsyncClient.connect(ClientOptions.builder(server.address()).poolSize(1).build())) {
      List<CompletableFuture<Optional<KvRecord>>> futures = new ArrayList<>();
      for (int i = 0; i < 1000; ++i) futures.add(client.get("k" + i));
      go.countDown();
      assertEchoed(futures);
      assertEquals(1, server.connections.get());
    }
  }

  @Test
  void aLieCostsTheConnectionAndAllAreSentAgain() throws Exception {
    List<FakeServer.Request> waiting = new ArrayList<>();
    FakeServer.Script script = request -> {
      synchronized (waiting) {
        if (request.connection > 0) {
          echo(request);
          return;
        }
        waiting.add(request);
        if (waiting.size() == 20) {
          request.reply("get", 99999, TMessageType.REPLY, new Kv.get_result().setSuccess(new GetReply()));
        }
      }
    };
    try (FakeServer server = new FakeServer(script);
        PandoAsyncClient client = PandoAsyncClient.connect(server.address())) {
      List<CompletableFuture<Optional<KvRecord>>> futures = new ArrayList<>();
      for (int i = 0; i < 20; ++i) futures.add(client.get("k" + i));
      assertEchoed(futures);
      assertEquals(2, server.connections.get());
    }
  }

  /** One slow reply does not cost the others theirs, and its late coming is no lie. */
  @Test
  void aTimeoutLeavesTheOthersTheirTime() throws Exception {
    CountDownLatch timedOut = new CountDownLatch(1);
    List<FakeServer.Request> waiting = new ArrayList<>();
    FakeServer.Script script = request -> {
      if (request.connection > 0) {
        echo(request);
        return;
      }
      waiting.add(request);
      if (waiting.size() < 2) return;
      timedOut.await();
      for (FakeServer.Request each : waiting) echo(each);
    };
    try (FakeServer server = new FakeServer(script);
        PandoAsyncClient client = PandoAsyncClient.connect(server.address())) {
      CompletableFuture<Optional<KvRecord>> slow =
          client.get("k0", ReadOptions.create().timeout(Duration.ofMillis(200)));
      CompletableFuture<Optional<KvRecord>> patient = client.get("k1");
      assertThrows(DeadlineException.class, () -> BlockingOverAsync.join(slow));
      assertEquals("k2", client.get("k2").join().orElseThrow().valueAsString());
      assertEquals(2, server.connections.get());
      timedOut.countDown();
      assertEquals("k1", patient.join().orElseThrow().valueAsString());
      assertEquals(3, server.requests("get").size());
    }
  }

  @Test
  void aCancelledCallIsNotTriedAgain() throws Exception {
    CountDownLatch came = new CountDownLatch(1);
    CountDownLatch cancelled = new CountDownLatch(1);
    FakeServer.Script script = request -> {
      if (!request.method.equals("get")) {
        request.reply(new Kv.count_result().setSuccess(new CountReply().setCount(5)));
        return;
      }
      came.countDown();
      cancelled.await();
      throw new IOException("cut");
    };
    try (FakeServer server = new FakeServer(script);
        PandoAsyncClient client = PandoAsyncClient.connect(server.address())) {
      CompletableFuture<Optional<KvRecord>> future = client.get("k");
      assertTrue(came.await(10, TimeUnit.SECONDS));
      future.cancel(true);
      cancelled.countDown();
      assertEquals(5, client.count(KeyRange.all()).join());
      assertEquals(1, server.requests("get").size());
    }
  }

  @Test
  void callbacksMayBlock() throws Exception {
    try (FakeServer server = new FakeServer(AsyncTest::echo);
        PandoAsyncClient client = PandoAsyncClient.connect(server.address())) {
      CompletableFuture<String> nested =
          client.get("a").thenApply(first -> client.get("b").join().orElseThrow().valueAsString());
      assertEquals("b", nested.get(10, TimeUnit.SECONDS));
    }
  }

  /** Otherwise the token of its reply could take the place of a newer one. */
  @Test
  void aCancelledCallOfASessionIsWaitedFor() throws Exception {
    CountDownLatch came = new CountDownLatch(1);
    CountDownLatch cancelled = new CountDownLatch(1);
    FakeServer.Script script = request -> {
      String token = Bytes.text(Bytes.copy(request.context().session));
      came.countDown();
      cancelled.await();
      GetReply reply = new GetReply().setRecord(new dev.pando.api.Record());
      reply.setContext(new dev.pando.api.ReplyContext().setSession(Bytes.utf8(token + "x")));
      request.reply(new Kv.get_result().setSuccess(reply));
    };
    try (FakeServer server = new FakeServer(script);
        PandoAsyncClient client = PandoAsyncClient.connect(server.address())) {
      AsyncSession session = client.session();
      CompletableFuture<Optional<KvRecord>> first = session.get("k");
      CompletableFuture<Optional<KvRecord>> second = session.get("never sent");
      CompletableFuture<Optional<KvRecord>> third = session.get("k");
      assertTrue(came.await(10, TimeUnit.SECONDS));
      second.cancel(true);
      first.cancel(true);
      cancelled.countDown();
      third.join();
      assertEquals(List.of("", "x"), server.requests("get").stream()
          .map(request -> Bytes.text(Bytes.copy(request.context().session))).toList());
      assertEquals("xx", Bytes.text(session.token()));
    }
  }

  @Test
  void aSessionHasOneCallAtATime() throws Exception {
    List<String> seen = Collections.synchronizedList(new ArrayList<>());
    FakeServer.Script script = request -> {
      String token = Bytes.text(Bytes.copy(request.context().session));
      seen.add(token + "/" + request.context().level);
      GetReply reply = new GetReply().setRecord(new dev.pando.api.Record());
      reply.setContext(new dev.pando.api.ReplyContext().setSession(Bytes.utf8(token + "x")));
      request.reply(new Kv.get_result().setSuccess(reply));
    };
    try (FakeServer server = new FakeServer(script);
        PandoAsyncClient client = PandoAsyncClient.connect(server.address())) {
      AsyncSession session = client.session();
      List<CompletableFuture<Optional<KvRecord>>> futures = new ArrayList<>();
      for (int i = 0; i < 3; ++i) futures.add(session.get("k" + i));
      for (CompletableFuture<Optional<KvRecord>> future : futures) assertFalse(future.join().isPresent());
      assertEquals(List.of("/6", "x/6", "xx/6"), seen);
      assertEquals("xxx", Bytes.text(session.token()));
    }
  }
}
