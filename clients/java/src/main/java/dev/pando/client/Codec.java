package dev.pando.client;

import dev.pando.api.Context;
import dev.pando.api.KvError;
import dev.pando.api.ReplyContext;
import java.nio.ByteBuffer;
import org.apache.thrift.TApplicationException;
import org.apache.thrift.TBase;
import org.apache.thrift.TConfiguration;
import org.apache.thrift.TException;
import org.apache.thrift.TFieldIdEnum;
import org.apache.thrift.protocol.TBinaryProtocol;
import org.apache.thrift.protocol.TMessage;
import org.apache.thrift.protocol.TMessageType;
import org.apache.thrift.transport.AutoExpandingBufferWriteTransport;
import org.apache.thrift.transport.TMemoryInputTransport;

/** Requests and replies as frames of the binary protocol. */
final class Codec {
  /** No reply is larger; a length beyond it is garbage. Servers send at most 4 MiB today. */
  static final int MAX_FRAME_BYTES = 64 << 20;

  /** No list is longer. Thrift makes a list as long as a reply says before it reads the first entry. */
  private static final int MAX_LIST_ENTRIES = 1 << 20;

  private static final int HEADER_BYTES = 4;
  private static final int RECURSION_LIMIT = 64;

  /** A reply of which only the envelope has been read. */
  record Envelope(TMessage message, TBinaryProtocol body) {}

  /** Exactly one of the first two is set. */
  record Answer(TBase<?, ?> success, KvError error, ReplyContext context) {}

  private Codec() {}

  private static TConfiguration configuration() {
    return new TConfiguration(MAX_FRAME_BYTES, MAX_FRAME_BYTES, RECURSION_LIMIT);
  }

  /** Returns the whole frame, with its length. */
  static ByteBuffer encode(Call<?> call, int sequence, Context context) {
    return encode(call, call.request, sequence, context);
  }

  static ByteBuffer encode(Call<?> call, TBase<?, ?> request, int sequence, Context context) {
    try {
      AutoExpandingBufferWriteTransport out =
          new AutoExpandingBufferWriteTransport(configuration(), 256, HEADER_BYTES);
      TBinaryProtocol protocol = new TBinaryProtocol(out);
      protocol.writeMessageBegin(new TMessage(call.method, TMessageType.CALL, sequence));
      TBase<?, ?> args = call.args.get();
      set(args, 1, context);
      set(args, 2, request);
      args.write(protocol);
      protocol.writeMessageEnd();
      ByteBuffer frame = ByteBuffer.wrap(out.getBuf().array(), 0, out.getLength());
      frame.putInt(0, out.getLength() - HEADER_BYTES);
      return frame;
    } catch (TException e) {
      throw new IllegalStateException("cannot encode " + call.method, e);
    }
  }

  static Envelope open(byte[] frame) {
    try {
      // An entry has at least one byte.
      TBinaryProtocol protocol = new TBinaryProtocol(new TMemoryInputTransport(configuration(), frame),
          frame.length, Math.min(frame.length, MAX_LIST_ENTRIES));
      TMessage message = protocol.readMessageBegin();
      if (message.type != TMessageType.REPLY && message.type != TMessageType.EXCEPTION) {
        throw new ProtocolException("a message of type " + message.type + " came instead of a reply", null);
      }
      return new Envelope(message, protocol);
    } catch (TException | RuntimeException e) {
      throw undecodable(e);
    }
  }

  /** Reads the rest of a reply to `call`. */
  static Answer read(Call<?> call, Envelope envelope) {
    if (!envelope.message.name.equals(call.method)) {
      throw new ProtocolException("a reply to " + envelope.message.name + " came instead of one to " + call.method, null);
    }
    try {
      if (envelope.message.type == TMessageType.EXCEPTION) throw refused(call, envelope);
      TBase<?, ?> result = call.result.get();
      result.read(envelope.body);
      TBase<?, ?> success = struct(result, 0);
      KvError error = (KvError) struct(result, 1);
      if (error != null) return new Answer(null, error, error.context);
      if (success == null) throw new ProtocolException("a reply to " + call.method + " has no result", null);
      return new Answer(success, null, (ReplyContext) struct(success, 15));
    } catch (TException e) {
      throw undecodable(e);
    } catch (PandoException e) {
      throw e;
    } catch (RuntimeException e) {
      throw undecodable(e);
    } catch (StackOverflowError e) {  // Thrift skips unknown fields without a limit to their depth
      throw new ProtocolException("a reply to " + call.method + " is nested too deeply", null);
    }
  }

  private static PandoException refused(Call<?> call, Envelope envelope) throws TException {
    TApplicationException error = TApplicationException.readFrom(envelope.body);
    String message = "the server refused the request " + call.method + ": "
        + (error.getMessage() == null ? "exception of type " + error.getType() : error.getMessage());
    return switch (error.getType()) {
      // A server finds these out before it does anything.
      case TApplicationException.UNKNOWN_METHOD, TApplicationException.INVALID_MESSAGE_TYPE,
          TApplicationException.PROTOCOL_ERROR, TApplicationException.INVALID_TRANSFORM,
          TApplicationException.INVALID_PROTOCOL, TApplicationException.UNSUPPORTED_CLIENT_TYPE ->
          PandoException.create(ErrorCode.BAD_REQUEST, "BAD_REQUEST: " + message, Applied.NO, false, 0, error);
      // These belong to another request.
      case TApplicationException.WRONG_METHOD_NAME, TApplicationException.BAD_SEQUENCE_ID,
          TApplicationException.MISSING_RESULT -> new ProtocolException(message, error);
      default ->
          PandoException.create(ErrorCode.INTERNAL, "INTERNAL: " + message, Applied.UNKNOWN, false, 0, error);
    };
  }

  private static PandoException undecodable(Exception cause) {
    if (cause instanceof PandoException known) return known;
    return new ProtocolException("a reply could not be decoded: " + cause, cause);
  }

  @SuppressWarnings({"unchecked", "rawtypes"})
  private static void set(TBase struct, int field, Object value) {
    struct.setFieldValue(struct.fieldForId(field), value);
  }

  @SuppressWarnings({"unchecked", "rawtypes"})
  private static TBase<?, ?> struct(TBase struct, int field) {
    TFieldIdEnum id = struct.fieldForId(field);
    return id == null ? null : (TBase<?, ?>) struct.getFieldValue(id);
  }
}
