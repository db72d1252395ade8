package dev.pando.client;

import dev.pando.api.Context;
import dev.pando.api.HelloReply;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.StandardSocketOptions;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.SocketChannel;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.TimeUnit;

/**
 * A connection with several requests in flight. Replies may overtake each other and are matched by sequence id. All of it
 * runs on the event loop.
 *
 * <p>Invariant: every request ends with exactly one call of its handler, unless it is abandoned first.
 */
final class SharedConnection {
  static final int MOST_IN_FLIGHT = 128;

  /** What becomes of a request. */
  interface Handler {
    void replied(Codec.Envelope envelope);

    void lost(TransportException error);
  }

  /** What the pool is told of a connection. */
  interface Listener {
    /** It has said hello, and takes requests. */
    void opened(SharedConnection connection);

    /** It can take another request, or must not be given any more. */
    void changed(SharedConnection connection);

    /** It is gone; its requests have been told. `error` is null if it was closed on purpose. */
    void closed(SharedConnection connection, PandoException error);
  }

  private static final class Request {
    final Handler handler;
    final ByteBuffer frame;

    Request(Handler handler, ByteBuffer frame) {
      this.handler = handler;
      this.frame = frame;
    }
  }

  final Address address;
  private final EventLoop loop;
  private final Listener listener;
  private final FrameReader reader = new FrameReader();
  private final Map<Integer, Request> pending = new HashMap<>();
  private final Set<Integer> abandoned = new HashSet<>();
  private final ArrayDeque<ByteBuffer> out = new ArrayDeque<>();
  private SocketChannel channel;
  private SelectionKey key;
  private ServerHello server;
  private EventLoop.Timer openTimer;
  private String clientName;
  private long openTimeoutNanos;
  private int sequence;
  private boolean retired;
  private boolean closed;
  private boolean used;

  SharedConnection(Address address, EventLoop loop, Listener listener) {
    this.address = address;
    this.loop = loop;
    this.listener = listener;
  }

  /** Connects and says hello; the listener hears of the end. */
  void open(InetSocketAddress to, String name, long timeoutNanos) {
    clientName = name;
    openTimeoutNanos = timeoutNanos;
    openTimer = loop.schedule(timeoutNanos,
        () -> fail(TransportException.notSent(address + " did not accept a connection in time", null)));
    try {
      channel = SocketChannel.open();
      channel.configureBlocking(false);
      channel.setOption(StandardSocketOptions.TCP_NODELAY, true);
      channel.setOption(StandardSocketOptions.SO_KEEPALIVE, true);
      key = loop.register(channel, SelectionKey.OP_CONNECT, this::ready);
      if (channel.connect(to)) connected();
    } catch (IOException | RuntimeException e) {
      fail(TransportException.notSent("cannot connect to " + address + ": " + e.getMessage(), e));
    }
  }

  private void ready(SelectionKey ready) {
    try {
      if (ready.isConnectable() && channel.finishConnect()) connected();
      if (key.isValid() && ready.isReadable()) read();
      if (!closed && key.isValid() && ready.isWritable()) write();
    } catch (IOException e) {
      fail(TransportException.lost(address + ": " + e.getMessage(), e));
    } catch (PandoException e) {
      fail(e);
    } catch (RuntimeException e) {
      fail(TransportException.lost(address + ": " + e, e));
    }
  }

  private void connected() {
    key.interestOps(SelectionKey.OP_READ);
    Call<HelloReply> call = Calls.hello(clientName, List.of(ServerHello.OUT_OF_ORDER));
    int budget = (int) Math.max(1, TimeUnit.NANOSECONDS.toMillis(openTimeoutNanos));
    int id = nextSequence();
    send(id, Codec.encode(call, id, new Context().setBudget_ms(budget)), new Handler() {
      @Override
      public void replied(Codec.Envelope envelope) {
        Codec.Answer answer = Codec.read(call, envelope);
        if (answer.error() != null) throw PandoException.of(answer.error());
        opened(call.read(answer.success()));
      }

      @Override
      public void lost(TransportException error) {}
    });
  }

  private void opened(HelloReply reply) {
    openTimer.cancel();
    server = new ServerHello(reply);
    listener.opened(this);
  }

  ServerHello server() {
    return server;
  }

  int nextSequence() {
    return ++sequence;
  }

  /** Whether it answered a request before; one that did may have been closed by the server while it was idle. */
  boolean wasUsed() {
    return used;
  }

  boolean takesRequests() {
    return server != null && !closed && !retired && !server.isOld() && inFlight() < MOST_IN_FLIGHT;
  }

  int inFlight() {
    return pending.size() + abandoned.size();
  }

  /** Whether it can be closed without harm: it takes no more requests and waits for none. */
  boolean isUseless() {
    return isRetired() && pending.isEmpty();
  }

  boolean isRetired() {
    return retired || closed || (server != null && server.isOld());
  }

  /** Sends a frame. The handler may be told at once that the connection is lost. */
  void send(int id, ByteBuffer frame, Handler handler) {
    pending.put(id, new Request(handler, frame));
    out.add(frame);
    if (out.size() > 1) return;
    try {
      write();
    } catch (IOException e) {
      fail(TransportException.lost(address + ": " + e.getMessage(), e));
    }
  }

  private void write() throws IOException {
    while (!out.isEmpty()) {
      ByteBuffer frame = out.peek();
      if (FrameReader.write(channel, frame) == 0) break;
      if (!frame.hasRemaining()) out.remove();
    }
    key.interestOps(out.isEmpty() ? SelectionKey.OP_READ : SelectionKey.OP_READ | SelectionKey.OP_WRITE);
  }

  private void read() throws IOException {
    int count = reader.read(channel);
    if (count < 0) throw new IOException("the server closed the connection");
    byte[] frame;
    while (!closed && (frame = reader.next()) != null) take(Codec.open(frame));
    if (closed) return;
    if (isUseless()) {
      close();
    } else {
      listener.changed(this);
    }
  }

  private void take(Codec.Envelope envelope) {
    int id = envelope.message().seqid;
    if (abandoned.remove(id)) return;
    boolean greeted = server != null;
    Request request = pending.remove(id);
    if (request == null) {
      throw new ProtocolException(address + " answered with the sequence id " + id + ", which nobody waits for", null);
    }
    try {
      request.handler.replied(envelope);
    } catch (RuntimeException e) {
      pending.put(id, request);  // it was not the reply, so the handler is told that the request is lost
      throw e;
    }
    used |= greeted;
  }

  /**
   * Nobody waits for the reply any more. Returns whether the server may have the whole request. If so, the connection
   * takes no further requests, because it may be dead; those that are in flight keep their time.
   */
  boolean abandon(int id) {
    Request request = pending.remove(id);
    if (request == null) return true;
    if (request.frame.position() == 0) {
      out.removeIf(frame -> frame == request.frame);
      listener.changed(this);
      return false;
    }
    if (request.frame.hasRemaining()) {
      fail(TransportException.lost(address + " does not read", null));
      return false;
    }
    abandoned.add(id);
    retired = true;
    if (pending.isEmpty()) {
      close();
    } else {
      listener.changed(this);
    }
    return true;
  }

  void close() {
    fail(null);
  }

  private void fail(PandoException error) {
    if (closed) return;
    closed = true;
    if (openTimer != null) openTimer.cancel();
    try {
      if (channel != null) channel.close();
    } catch (IOException e) {
      // There is nothing left to do with it.
    }
    List<Request> lost = new ArrayList<>(pending.values());
    pending.clear();
    out.clear();
    String message = error == null ? "the connection to " + address + " was closed" : error.getMessage();
    for (Request request : lost) request.handler.lost(loss(request, message, error));
    listener.closed(this, error);
  }

  /** A request of which the server cannot have all bytes has certainly not been carried out. */
  private static TransportException loss(Request request, String message, PandoException error) {
    if (request.frame.hasRemaining()) return TransportException.notSent(message, error);
    return error instanceof ProtocolException ? new ProtocolException(message, error)
        : TransportException.lost(message, error);
  }
}
