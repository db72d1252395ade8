package dev.pando.client;

import dev.pando.api.Context;
import dev.pando.api.MultiGetReply;
import dev.pando.api.WriteBatchReply;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.thrift.TBase;

/** What requests carry from earlier replies. */
interface Carrier {
  void fill(Context context, Call<?> call, ServerHello server);

  void learn(Call<?> call, Codec.Answer answer);

  /** Of a whole client: the highest version that any reply told of. Thread-safe. */
  final class OfClient implements Carrier {
    private final AtomicLong hlc = new AtomicLong();

    @Override
    public void fill(Context context, Call<?> call, ServerHello server) {
      if (server.clocks) context.setHlc(hlc.get());
    }

    @Override
    public void learn(Call<?> call, Codec.Answer answer) {
      if (answer.context() != null) hlc.accumulateAndGet(answer.context().hlc, Math::max);
    }
  }

  /**
   * Of a session: its token too. Its calls come one after the other.
   *
   * <p>Once the session has a token, a reply without one tells that it has seen more partitions than a token can name. From
   * then on it reads at the master, where it sees everything. A reply to a batch or a multiGet tells nothing if it has no
   * result of any record: nothing was seen.
   */
  final class OfSession implements Carrier {
    private final Carrier client;
    private volatile byte[] token;
    private volatile boolean uncovered;

    OfSession(Carrier client, byte[] token) {
      this.client = client;
      this.token = token.clone();
    }

    @Override
    public void fill(Context context, Call<?> call, ServerHello server) {
      client.fill(context, call, server);
      context.setSession(token);
      if (call.kind == Call.Kind.READ && call.level == null && !call.ofSnapshot) {
        context.setLevel(uncovered ? Level.LINEARIZABLE.code : Level.SESSION.code);
        context.setMax_staleness_ms(0);
      }
    }

    @Override
    public void learn(Call<?> call, Codec.Answer answer) {
      client.learn(call, answer);
      byte[] newer = answer.context() == null ? Bytes.EMPTY : Bytes.copy(answer.context().session);
      if (newer.length > 0) {
        token = newer;
      } else if (token.length > 0 && answer.success() != null && addsToToken(call, answer.success())) {
        uncovered = true;
      }
    }

    private static boolean addsToToken(Call<?> call, TBase<?, ?> reply) {
      if (reply instanceof WriteBatchReply batch) {
        return batch.results != null && batch.results.stream().anyMatch(result -> result.error == null);
      }
      if (reply instanceof MultiGetReply read) {
        return read.items != null && read.items.stream().anyMatch(item -> item.error == null);
      }
      return call.kind != Call.Kind.OTHER && !call.ofSnapshot;
    }

    byte[] token() {
      return token.clone();
    }
  }
}
