package dev.pando.client;

import dev.pando.api.Context;
import dev.pando.api.HelloReply;
import dev.pando.api.Kv;
import dev.pando.api.KvError;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.thrift.TBase;
import org.apache.thrift.TConfiguration;
import org.apache.thrift.TException;
import org.apache.thrift.protocol.TBinaryProtocol;
import org.apache.thrift.protocol.TMessage;
import org.apache.thrift.protocol.TMessageType;
import org.apache.thrift.transport.TMemoryBuffer;
import org.apache.thrift.transport.TMemoryInputTransport;

/** A server that answers hello, and does with each other request what a test says. */
final class FakeServer implements AutoCloseable {
  /** What to do with a request. An exception closes the connection. */
  interface Script {
    void handle(Request request) throws Exception;
  }

  static final TConfiguration CONFIGURATION = new TConfiguration(256 << 20, 256 << 20, 64);

  final List<Request> requests = new CopyOnWriteArrayList<>();
  final AtomicInteger connections = new AtomicInteger();
  volatile HelloReply hello = hello("idempotent_writes", "clocks", ServerHello.OUT_OF_ORDER);
  private final ServerSocket listener;
  private final Set<Socket> sockets = ConcurrentHashMap.newKeySet();
  private final Script script;

  FakeServer(Script script) throws IOException {
    this.script = script;
    listener = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
    start(this::accept);
  }

  /** A port that nobody listens at, and that no other program gets meanwhile. */
  static Socket bound() throws IOException {
    Socket socket = new Socket();
    socket.bind(new java.net.InetSocketAddress(InetAddress.getLoopbackAddress(), 0));
    return socket;
  }

  static HelloReply hello(String... features) {
    HelloReply reply = new HelloReply().setServer_version("fake").setNow_ms(1_000_000);
    return reply.setFeatures(List.of(features)).setAccepted_features(List.of(ServerHello.OUT_OF_ORDER));
  }

  String address() {
    return "127.0.0.1:" + listener.getLocalPort();
  }

  /** The requests with this method so far. */
  List<Request> requests(String method) {
    return requests.stream().filter(request -> request.method.equals(method)).toList();
  }

  private static void start(Runnable task) {
    Thread thread = new Thread(task, "fake-server");
    thread.setDaemon(true);
    thread.start();
  }

  private void accept() {
    try {
      while (true) {
        Socket socket = listener.accept();
        socket.setTcpNoDelay(true);
        sockets.add(socket);
        int number = connections.getAndIncrement();
        start(() -> serve(socket, number));
      }
    } catch (IOException e) {
      // The test is over.
    }
  }

  private void serve(Socket socket, int number) {
    try (socket) {
      DataInputStream in = new DataInputStream(socket.getInputStream());
      DataOutputStream out = new DataOutputStream(socket.getOutputStream());
      while (true) {
        byte[] frame = new byte[in.readInt()];
        in.readFully(frame);
        Request request = new Request(frame, out, number);
        if (request.method.equals("hello")) {
          request.reply(new Kv.hello_result().setSuccess(hello));
        } else {
          requests.add(request);
          script.handle(request);
        }
      }
    } catch (Exception e) {
      // The client has gone, or the script wants to close the connection.
    } finally {
      sockets.remove(socket);
    }
  }

  /** The connections that are open now. */
  int open() {
    return sockets.size();
  }

  void closeConnections() throws IOException {
    for (Socket socket : sockets) socket.close();
  }

  @Override
  public void close() throws IOException {
    listener.close();
    closeConnections();
  }

  /** A request that has come. */
  static final class Request {
    final String method;
    final int sequence;
    final int connection;
    final TBase<?, ?> args;
    private final DataOutputStream out;

    Request(byte[] frame, DataOutputStream out, int connection) throws Exception {
      this.out = out;
      this.connection = connection;
      TBinaryProtocol protocol = new TBinaryProtocol(new TMemoryInputTransport(CONFIGURATION, frame));
      TMessage message = protocol.readMessageBegin();
      method = message.name;
      sequence = message.seqid;
      args = (TBase<?, ?>) Class.forName("dev.pando.api.Kv$" + method + "_args").getConstructor().newInstance();
      args.read(protocol);
    }

    @SuppressWarnings({"unchecked", "rawtypes"})
    private Object argument(int field) {
      TBase raw = args;
      return raw.getFieldValue(raw.fieldForId(field));
    }

    Context context() {
      return (Context) argument(1);
    }

    <T> T request(Class<T> type) {
      return type.cast(argument(2));
    }

    String lane() {
      return java.util.HexFormat.of().formatHex(Bytes.copy(context().client_id));
    }

    void reply(TBase<?, ?> result) throws TException, IOException {
      reply(method, sequence, TMessageType.REPLY, result);
    }

    /** Answers with an error, whatever the method is. */
    @SuppressWarnings({"unchecked", "rawtypes"})
    void error(int code, int applied, boolean retryable) throws Exception {
      TBase result = (TBase) Class.forName("dev.pando.api.Kv$" + method + "_result").getConstructor().newInstance();
      KvError error = new KvError().setCode(code).setMessage("told to").setApplied(applied).setRetryable(retryable);
      result.setFieldValue(result.fieldForId(1), error);
      reply(result);
    }

    void reply(String name, int id, byte type, TBase<?, ?> result) throws TException, IOException {
      TMemoryBuffer buffer = new TMemoryBuffer(CONFIGURATION, 256);
      TBinaryProtocol protocol = new TBinaryProtocol(buffer);
      protocol.writeMessageBegin(new TMessage(name, type, id));
      result.write(protocol);
      protocol.writeMessageEnd();
      frame(java.util.Arrays.copyOf(buffer.getArray(), buffer.length()));
    }

    void frame(byte[] bytes) throws IOException {
      synchronized (out) {
        out.writeInt(bytes.length);
        out.write(bytes);
        out.flush();
      }
    }

    void raw(byte[] bytes) throws IOException {
      synchronized (out) {
        out.write(bytes);
        out.flush();
      }
    }
  }
}
