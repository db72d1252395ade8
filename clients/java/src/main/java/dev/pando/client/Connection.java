package dev.pando.client;

import dev.pando.api.Context;
import dev.pando.api.HelloReply;
import java.io.IOException;
import java.net.StandardSocketOptions;
import java.nio.ByteBuffer;
import java.nio.channels.CancelledKeyException;
import java.nio.channels.ClosedSelectorException;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.SocketChannel;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.TimeUnit;

/**
 * A connection with one request at a time. Connecting, sending and receiving all have a deadline: a plain socket of Java
 * has none for sending. One thread uses it at a time; any thread may close it.
 *
 * <p>Invariant: after an exception other than the server's own error, it must be closed.
 */
final class Connection implements AutoCloseable {
  final Address address;
  private final SocketChannel channel;
  private final Selector selector;
  private final SelectionKey key;
  private final FrameReader reader = new FrameReader();
  private volatile boolean closed;
  private ServerHello server;
  private int sequence;

  private Connection(Address address, SocketChannel channel, Selector selector) throws IOException {
    this.address = address;
    this.channel = channel;
    this.selector = selector;
    channel.configureBlocking(false);
    channel.setOption(StandardSocketOptions.TCP_NODELAY, true);
    channel.setOption(StandardSocketOptions.SO_KEEPALIVE, true);
    key = channel.register(selector, 0);
  }

  /** Connects and says hello. */
  static Connection open(Address address, String clientName, long deadlineNanos) {
    Connection connection = connect(address, deadlineNanos);
    try {
      connection.hello(clientName, deadlineNanos);
      return connection;
    } catch (PandoException e) {
      connection.close();
      throw e.withApplied(Applied.NO);
    } catch (RuntimeException | Error e) {
      connection.close();
      throw e;
    }
  }

  private static Connection connect(Address address, long deadlineNanos) {
    SocketChannel channel = null;
    Selector selector = null;
    try {
      channel = SocketChannel.open();
      selector = Selector.open();
      Connection connection = new Connection(address, channel, selector);
      boolean done = channel.connect(address.resolve());
      while (!done) {
        connection.await(SelectionKey.OP_CONNECT, deadlineNanos, "connect", Applied.NO);
        done = channel.finishConnect();
      }
      return connection;
    } catch (IOException e) {
      closeQuietly(channel);
      closeQuietly(selector);
      throw TransportException.notSent("cannot connect to " + address + ": " + e.getMessage(), e);
    } catch (RuntimeException e) {
      closeQuietly(channel);
      closeQuietly(selector);
      throw e;
    }
  }

  private void hello(String clientName, long deadlineNanos) {
    Call<HelloReply> call = Calls.hello(clientName, List.of());
    long budget = Math.max(1, TimeUnit.NANOSECONDS.toMillis(deadlineNanos - System.nanoTime()));
    int id = nextSequence();
    Codec.Envelope envelope = exchange(Codec.encode(call, id, new Context().setBudget_ms((int) budget)), id, call.method,
        deadlineNanos);
    Codec.Answer answer = Codec.read(call, envelope);
    if (answer.error() != null) throw PandoException.of(answer.error());
    server = new ServerHello(call.read(answer.success()));
  }

  ServerHello server() {
    return server;
  }

  int nextSequence() {
    return ++sequence;
  }

  /** Sends a frame and returns the reply with this sequence id. */
  Codec.Envelope exchange(ByteBuffer frame, int id, String method, long deadlineNanos) {
    boolean sent = false;
    try {
      while (frame.hasRemaining()) {
        if (FrameReader.write(channel, frame) == 0) await(SelectionKey.OP_WRITE, deadlineNanos, "send " + method, Applied.NO);
      }
      sent = true;
      byte[] reply;
      while ((reply = reader.next()) == null) {
        int count = reader.read(channel);
        if (count < 0) throw new IOException("the server closed the connection");
        if (count == 0) await(SelectionKey.OP_READ, deadlineNanos, "receive the reply to " + method, Applied.UNKNOWN);
      }
      return checked(reply, id);
    } catch (IOException | CancelledKeyException e) {
      if (closed) throw PandoException.closed().withApplied(sent ? Applied.UNKNOWN : Applied.NO);
      String message = method + " at " + address + ": " + e.getMessage();
      throw sent ? TransportException.lost(message, e) : TransportException.notSent(message, e);
    }
  }

  private Codec.Envelope checked(byte[] reply, int id) {
    Codec.Envelope envelope = Codec.open(reply);
    if (envelope.message().seqid != id) {
      throw new ProtocolException(address + " answered with the sequence id " + envelope.message().seqid
          + " instead of " + id, null);
    }
    if (!reader.isEmpty()) throw new ProtocolException(address + " sent more than a reply", null);
    return envelope;
  }

  /** Waits until the channel is ready; `what` and `applied` are for the error when time is over. */
  private void await(int operation, long deadlineNanos, String what, Applied applied) throws IOException {
    long left = deadlineNanos - System.nanoTime();
    if (left <= 0) {
      String message = "there was no time left to " + what + " (" + address + ")";
      throw applied == Applied.NO ? TransportException.notSent(message, null) : TransportException.lost(message, null);
    }
    try {
      key.interestOps(operation);
      selector.select(TimeUnit.NANOSECONDS.toMillis(left) + 1);
      selector.selectedKeys().clear();
    } catch (ClosedSelectorException | CancelledKeyException e) {
      throw new IOException("the connection was closed", e);
    }
    if (Thread.currentThread().isInterrupted()) throw interrupted(applied);
  }

  static PandoException interrupted(Applied applied) {
    return PandoException.create(ErrorCode.CLOSED, "the calling thread was interrupted", applied, false, 0, null);
  }

  /** Whether it may be used again: the server has not closed it, and its clock is fresh. Only while it is idle. */
  boolean isUsable() {
    try {
      return !closed && !server.isOld() && reader.isEmpty() && reader.read(channel) == 0;
    } catch (IOException e) {
      return false;
    }
  }

  /** When a request must have been answered whose caller waits until `deadlineNanos`. */
  static long withGrace(long deadlineNanos) {
    return deadlineNanos + Invocation.GRACE.toNanos();
  }

  static long after(Duration duration, long latestNanos) {
    long end = System.nanoTime() + duration.toNanos();
    return end - latestNanos > 0 ? latestNanos : end;
  }

  @Override
  public void close() {
    closed = true;
    closeQuietly(channel);
    closeQuietly(selector);
  }

  private static void closeQuietly(AutoCloseable resource) {
    try {
      if (resource != null) resource.close();
    } catch (Exception e) {
      // There is nothing left to do with it.
    }
  }
}
