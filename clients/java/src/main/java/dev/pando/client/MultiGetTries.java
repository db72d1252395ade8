package dev.pando.client;

import dev.pando.api.KvError;
import dev.pando.api.MultiGetItem;
import dev.pando.api.MultiGetReply;
import dev.pando.api.MultiGetRequest;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Optional;
import org.apache.thrift.TBase;

/** Keys that could not be read are asked for again; one that no other try can help fails the call. */
final class MultiGetTries implements Parts<List<Optional<KvRecord>>> {
  private final MultiGetRequest request;
  private final List<Optional<KvRecord>> records;
  /** The keys that are still to be read. */
  private List<Integer> open = new ArrayList<>();

  MultiGetTries(MultiGetRequest request) {
    this.request = request;
    records = new ArrayList<>(Collections.nCopies(request.keys.size(), Optional.empty()));
    for (int i = 0; i < request.keys.size(); ++i) open.add(i);
  }

  @Override
  public TBase<?, ?> request() {
    if (open.size() == request.keys.size()) return request;
    List<ByteBuffer> keys = new ArrayList<>(open.size());
    for (int i : open) keys.add(request.keys.get(i));
    return new MultiGetRequest().setKeys(keys).setSnapshot(request.snapshot);
  }

  @Override
  public List<Optional<KvRecord>> take(TBase<?, ?> answer, boolean named, boolean lost) {
    MultiGetReply reply = (MultiGetReply) answer;
    int items = reply.items == null ? 0 : reply.items.size();
    if (items != open.size()) throw new ProtocolException(items + " records came for " + open.size() + " keys", null);
    List<Integer> left = new ArrayList<>();
    KvError worst = null;
    for (int i = 0; i < items; ++i) {
      MultiGetItem item = reply.items.get(i);
      if (item.error == null) {
        records.set(open.get(i), KvRecord.of(item.record));
        continue;
      }
      left.add(open.get(i));
      if (worst == null || isWorse(item.error, worst)) worst = item.error;
    }
    open = left;
    if (worst != null) throw PandoException.of(worst);
    return records;
  }

  private static boolean isWorse(KvError error, KvError than) {
    if (error.retryable != than.retryable) return !error.retryable;
    return error.master != null && than.master == null;
  }

  @Override
  public List<Optional<KvRecord>> settle(PandoException error, boolean lost) {
    return null;
  }

  @Override
  public boolean begun() {
    return false;
  }

  @Override
  public boolean anyUnknown() {
    return false;
  }
}
