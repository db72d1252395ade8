package dev.pando.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import dev.pando.api.Kv;
import dev.pando.api.KvError;
import dev.pando.api.WriteBatchReply;
import dev.pando.api.WriteBatchRequest;
import dev.pando.api.WriteResult;
import dev.pando.api.pandoConstants;
import dev.pando.client.FaultsTest.Client;
import dev.pando.client.FaultsTest.Kind;
import java.io.IOException;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Deque;
import java.util.List;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** Batches of which some ops failed in a way that may pass: what is sent again, and what is known in the end. */
@Timeout(30)
class BatchTriesTest {
  private static final int UNKNOWN = pandoConstants.APPLIED_UNKNOWN;
  private static final int NO = pandoConstants.APPLIED_NO;

  private static WriteResult done() {
    return new WriteResult().setApplied(true);
  }

  /** Its condition did not hold, and there is no record. */
  private static WriteResult decided() {
    return new WriteResult();
  }

  private static WriteResult failed(int code, int applied, boolean retryable) {
    KvError error = new KvError().setCode(code).setMessage("told to").setApplied(applied).setRetryable(retryable);
    return new WriteResult().setError(error.setRetry_after_ms(retryable ? 1 : 0));
  }

  private static WriteResult busy() {
    return failed(pandoConstants.OVERLOADED, NO, true);
  }

  /** It asks for a longer wait than a call has time, which is then over, however slow this machine is. */
  private static WriteResult busyForLong() {
    WriteResult result = busy();
    result.error.setRetry_after_ms(60_000);
    return result;
  }

  private static WriteResult full() {
    return failed(pandoConstants.DISK_FULL, NO, false);
  }

  private static FakeServer.Script results(WriteResult... results) {
    return request -> request.reply(new Kv.writeBatch_result().setSuccess(
        new WriteBatchReply().setResults(new ArrayList<>(Arrays.asList(results)))));
  }

  /** Does with the requests what these say, one after the other. The last one repeats. */
  private static FakeServer server(FakeServer.Script... scripts) throws IOException {
    Deque<FakeServer.Script> left = new ArrayDeque<>(List.of(scripts));
    return new FakeServer(request -> {
      FakeServer.Script next;
      synchronized (left) {
        next = left.size() > 1 ? left.poll() : left.peek();
      }
      next.handle(request);
    });
  }

  private static final FakeServer.Script CUT = request -> {
    throw new IOException("cut");
  };

  private static WriteBatch batch() {
    return new WriteBatch().put("a", "1").increment("b", 1).put("c", "3");
  }

  private static List<String> outcomes(BatchResult batch) {
    return batch.results().stream().map(result ->
        result.error().map(e -> e.codeName() + " " + e.applied()).orElse(result.applied() ? "yes" : "no")).toList();
  }

  private static List<String> write(Client client, WriteBatch batch) {
    return outcomes(client.kv().writeBatch(batch));
  }

  @ParameterizedTest
  @EnumSource
  void aBatchIsSentAgainUnderItsName(Kind kind) throws Exception {
    WriteResult found = decided().setCurrent(new dev.pando.api.Record().setFound(true).setValue(new byte[] {'x'}));
    try (FakeServer server = server(results(done(), busy(), found), results(done(), busy(), decided()),
        results(done(), done(), decided())); Client client = Client.open(kind, server.address())) {
      BatchResult result = client.kv().writeBatch(batch());
      assertEquals(List.of("yes", "yes", "no"), outcomes(result));
      assertEquals("x", result.results().get(2).current().orElseThrow().valueAsString());
      assertEquals(3, server.requests.size());
      for (FakeServer.Request request : server.requests) {
        assertEquals(server.requests.get(0).lane(), request.lane());
        assertEquals(1, request.context().sequence);
        assertEquals(server.requests.get(0).context().first_sent_ms, request.context().first_sent_ms);
        assertEquals(3, request.request(WriteBatchRequest.class).ops.size(), "servers compare it");
      }
      client.kv().writeBatch(batch());
      assertEquals(server.requests.get(0).lane(), server.requests.get(3).lane());
      assertEquals(2, server.requests.get(3).context().sequence);
    }
  }

  @ParameterizedTest
  @EnumSource
  void whatWasDecidedStaysSo(Kind kind) throws Exception {
    WriteResult notMaster = failed(pandoConstants.NOT_MASTER, NO, true);
    WriteResult noNumber = failed(pandoConstants.BAD_REQUEST, NO, false);
    try (FakeServer server = server(results(decided(), noNumber, busy()), results(notMaster, notMaster, done()));
        Client client = Client.open(kind, server.address())) {
      assertEquals(List.of("no", "BAD_REQUEST NO", "yes"), write(client, batch()));
      assertEquals(2, server.requests.size());
    }
  }

  @ParameterizedTest
  @EnumSource
  void anOpThatFailedForGoodMaySucceedInATryForAnother(Kind kind) throws Exception {
    try (FakeServer server = server(results(full(), busy(), done()), results(done(), done(), done()));
        Client client = Client.open(kind, server.address())) {
      assertEquals(List.of("yes", "yes", "yes"), write(client, batch()));
    }
  }

  @ParameterizedTest
  @EnumSource
  void opsThatFailForGoodAreResultsAtOnce(Kind kind) throws Exception {
    try (FakeServer server = server(results(full(), done(), failed(pandoConstants.INTERNAL, UNKNOWN, false)));
        Client client = Client.open(kind, server.address())) {
      assertEquals(List.of("DISK_FULL NO", "yes", "INTERNAL UNKNOWN"), write(client, batch()));
      assertEquals(1, server.requests.size());
    }
  }

  @ParameterizedTest
  @EnumSource
  void whenTimeIsOverTheResultsTellOfEachOp(Kind kind) throws Exception {
    try (FakeServer server = server(results(done(), busy(), failed(pandoConstants.UNAVAILABLE, UNKNOWN, true)),
        results(done(), busyForLong(), busyForLong())); Client client = Client.open(kind, server.address())) {
      assertEquals(List.of("yes", "OVERLOADED NO", "OVERLOADED UNKNOWN"), write(client, batch()));
      assertEquals(2, server.requests.size());
      write(client, batch());
      assertEquals(1, server.requests.get(2).context().sequence, "the lane is not used again");
    }
  }

  @ParameterizedTest
  @EnumSource
  void whenALaterAnswerIsLostTheOpenOpsAreUnknown(Kind kind) throws Exception {
    try (FakeServer server = server(results(done(), busy(), full()), CUT, results(done(), busyForLong(), full()));
        Client client = Client.open(kind, server.address())) {
      assertEquals(List.of("yes", "OVERLOADED UNKNOWN", "DISK_FULL UNKNOWN"), write(client, batch()));
    }
  }

  @ParameterizedTest
  @EnumSource
  void whenTheFirstAnswerWasLostAnErrorSaysSoLittle(Kind kind) throws Exception {
    try (FakeServer server = server(CUT, results(done(), busyForLong(), full()));
        Client client = Client.open(kind, server.address())) {
      assertEquals(List.of("yes", "OVERLOADED UNKNOWN", "DISK_FULL UNKNOWN"), write(client, batch()));
    }
  }

  @ParameterizedTest
  @EnumSource
  void aRefusalIsTheErrorOfTheOpsThatWereOpen(Kind kind) throws Exception {
    try (FakeServer server = server(results(done(), busy(), decided()),
        request -> request.error(pandoConstants.DENIED, NO, false)); Client client = Client.open(kind, server.address())) {
      BatchResult result = client.kv().writeBatch(batch());
      assertEquals(List.of("yes", "DENIED NO", "no"), outcomes(result));
      assertEquals("DENIED: told to", result.results().get(1).error().orElseThrow().getMessage());
    }
  }

  private static List<String> retryable(Client client, WriteBatch batch) {
    return client.kv().writeBatch(batch).results().stream().map(result ->
        result.error().map(e -> e.applied() + " " + e.retryable()).orElse("none")).toList();
  }

  @ParameterizedTest
  @EnumSource
  void anOpOfUnknownOutcomeIsNotRetryable(Kind kind) throws Exception {
    WriteResult unknown = failed(pandoConstants.UNAVAILABLE, UNKNOWN, true);
    List<String> expected = List.of("none", "NO true", "UNKNOWN false");
    try (FakeServer server = server(results(done(), busyForLong(), unknown));
        Client client = Client.open(kind, server.address())) {
      assertEquals(expected, retryable(client, batch()));
    }
    try (FakeServer server = server(results(done(), busy(), failed(pandoConstants.UNAVAILABLE, UNKNOWN, true)))) {
      server.hello = FakeServer.hello(ServerHello.OUT_OF_ORDER);  // so the batch has no name
      try (Client client = Client.open(kind, server.address())) {
        assertEquals(expected, retryable(client, batch()));
      }
    }
    try (FakeServer server = server(results(done(), busy(), done()), CUT, results(done(), busyForLong(), done()));
        Client client = Client.open(kind, server.address())) {
      assertEquals(List.of("none", "UNKNOWN false", "none"), retryable(client, batch()));
    }
  }

  private static void assertWithoutName(Kind kind, int sent, List<String> expected, FakeServer.Script... scripts)
      throws Exception {
    try (FakeServer server = server(scripts)) {
      server.hello = FakeServer.hello(ServerHello.OUT_OF_ORDER);
      try (Client client = Client.open(kind, server.address())) {
        assertEquals(expected, write(client, batch()));
        assertEquals(sent, server.requests.size());
      }
    }
  }

  @ParameterizedTest
  @EnumSource
  void withoutANameItIsSentAgainOnlyIfNothingWasApplied(Kind kind) throws Exception {
    assertWithoutName(kind, 1, List.of("yes", "OVERLOADED NO", "yes"), results(done(), busy(), done()));
    assertWithoutName(kind, 1, List.of("no", "OVERLOADED NO", "OVERLOADED NO"), results(decided(), busy(), busy()));
    assertWithoutName(kind, 1, List.of("OVERLOADED NO", "OVERLOADED NO", "UNAVAILABLE UNKNOWN"),
        results(busy(), busy(), failed(pandoConstants.UNAVAILABLE, UNKNOWN, true)));
    assertWithoutName(kind, 2, List.of("yes", "yes", "yes"), results(busy(), full(), busy()),
        results(done(), done(), done()));
  }

  /** A server that knows no names must refuse the write, and not apply it again. */
  @ParameterizedTest
  @EnumSource
  void aNameIsKeptWhateverLaterServersKnow(Kind kind) throws Exception {
    FakeServer[] server = new FakeServer[1];
    try (FakeServer only = server(request -> {
      server[0].hello = FakeServer.hello(ServerHello.OUT_OF_ORDER);
      throw new IOException("cut");
    }, results(done(), done(), done())); Client client = Client.open(kind, only.address())) {
      server[0] = only;
      assertEquals(List.of("yes", "yes", "yes"), write(client, batch()));
      assertEquals(only.requests.get(0).lane(), only.requests.get(1).lane());
    }
  }

  @ParameterizedTest
  @EnumSource
  void whoClosesTheClientIsToldThatSomethingWasApplied(Kind kind) throws Exception {
    Client[] client = new Client[1];
    try (FakeServer server = server(results(done(), busy(), busy()), request -> client[0].close());
        Client only = Client.open(kind, server.address())) {
      client[0] = only;
      PandoException error = assertThrows(PandoException.class, () -> only.kv().writeBatch(batch()));
      assertEquals(ErrorCode.CLOSED, error.code());
      assertEquals(Applied.UNKNOWN, error.applied());
    }
  }
}
