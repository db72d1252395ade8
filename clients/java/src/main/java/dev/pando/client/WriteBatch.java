package dev.pando.client;

import dev.pando.api.KeyCondition;
import dev.pando.api.WriteBatchRequest;
import dev.pando.api.WriteOp;
import dev.pando.api.pandoConstants;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;

/**
 * Several writes that are sent together. Those on keys of one partition (as all keys with one {tag}) become visible
 * together, and a crash keeps all or none of them. Not thread-safe; it may be sent several times, each time as new
 * writes.
 */
public final class WriteBatch {
  private final List<WriteOp> ops = new ArrayList<>();
  private final List<KeyCondition> conditions = new ArrayList<>();
  private boolean allOrNothing;
  Level level;
  Duration timeout;

  /** Adds a put. */
  public WriteBatch put(byte[] key, byte[] value, WriteOptions options) {
    return add(op(pandoConstants.OP_PUT, key, options).setValue(Objects.requireNonNull(value)));
  }

  /** Adds a put. */
  public WriteBatch put(byte[] key, byte[] value) {
    return put(key, value, WriteOptions.create());
  }

  /** Adds a put. */
  public WriteBatch put(String key, String value, WriteOptions options) {
    return put(Bytes.utf8(key), Bytes.utf8(value), options);
  }

  /** Adds a put. */
  public WriteBatch put(String key, String value) {
    return put(key, value, WriteOptions.create());
  }

  /** Adds a remove. */
  public WriteBatch remove(byte[] key, WriteOptions options) {
    return add(op(pandoConstants.OP_REMOVE, key, options));
  }

  /** Adds a remove. */
  public WriteBatch remove(byte[] key) {
    return remove(key, WriteOptions.create());
  }

  /** Adds a remove. */
  public WriteBatch remove(String key) {
    return remove(Bytes.utf8(key));
  }

  /** Adds an increment. */
  public WriteBatch increment(byte[] key, long delta, WriteOptions options) {
    return add(op(pandoConstants.OP_INCREMENT, key, options).setDelta(delta));
  }

  /** Adds an increment. */
  public WriteBatch increment(String key, long delta) {
    return increment(Bytes.utf8(key), delta, WriteOptions.create());
  }

  /** Adds a change of the expiry; the options must say which. */
  public WriteBatch touch(byte[] key, WriteOptions options) {
    return add(op(pandoConstants.OP_TOUCH, key, options));
  }

  /** Adds a change of the expiry; the options must say which. */
  public WriteBatch touch(String key, WriteOptions options) {
    return touch(Bytes.utf8(key), options);
  }

  /** One refused op refuses all ops on its partition. */
  public WriteBatch allOrNothing() {
    allOrNothing = true;
    return this;
  }

  /**
   * Adds a condition of the whole batch: if it does not hold, no op is applied. All keys of the batch must then have
   * the same {tag}. Only the conditions of the options count.
   */
  public WriteBatch condition(byte[] key, WriteOptions condition) {
    conditions.add(new KeyCondition(ByteBuffer.wrap(key), condition.condition()));
    return this;
  }

  /** As the other method of this name. */
  public WriteBatch condition(String key, WriteOptions condition) {
    return condition(Bytes.utf8(key), condition);
  }

  /** Writes at this level. */
  public WriteBatch level(Level value) {
    level = value;
    return this;
  }

  /** How long the call may take, with all its tries. */
  public WriteBatch timeout(Duration value) {
    timeout = value;
    return this;
  }

  /** The number of ops. */
  public int size() {
    return ops.size();
  }

  private WriteBatch add(WriteOp op) {
    ops.add(op);
    return this;
  }

  private static WriteOp op(int kind, byte[] key, WriteOptions options) {
    WriteOp op = new WriteOp();
    op.setKind(kind).setKey(Objects.requireNonNull(key)).setCondition(options.condition());
    op.setTtl_mode(options.ttlMode).setTtl_ms(options.ttlMillis).setExpires_at_ms(options.expiresAtMillis);
    return op.setReturn_previous(options.returnPrevious);
  }

  WriteBatchRequest request() {
    return new WriteBatchRequest(new ArrayList<>(ops), allOrNothing, new ArrayList<>(conditions));
  }
}
