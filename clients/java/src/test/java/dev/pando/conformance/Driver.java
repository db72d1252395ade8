package dev.pando.conformance;

import dev.pando.client.AsyncScan;
import dev.pando.client.AsyncSnapshot;
import dev.pando.client.AsyncWatch;
import dev.pando.client.BlockingOverAsync;
import dev.pando.client.ClientOptions;
import dev.pando.client.KeyRange;
import dev.pando.client.KvAsyncCommands;
import dev.pando.client.KvCommands;
import dev.pando.client.PandoAsyncClient;
import dev.pando.client.PandoClient;
import dev.pando.client.Row;
import dev.pando.client.ScanIterator;
import dev.pando.client.ScanOptions;
import dev.pando.client.ServerInfo;
import dev.pando.client.Snapshot;
import dev.pando.client.WatchIterator;
import dev.pando.client.WatchOptions;
import dev.pando.client.WatchPage;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;

/** A client or a session of one of the two kinds, as the steps use it. */
interface Driver extends AutoCloseable {
  KvCommands kv();

  Driver session();

  ServerInfo serverInfo();

  Scanned scan(KeyRange range, ScanOptions options);

  OpenWatch watch(byte[] prefix, WatchOptions options);

  OpenSnapshot snapshot(Duration ttl, boolean renew);

  @Override
  void close();

  record Scanned(List<Row> rows, int pages, byte[] cursor) {}

  /** A watch that was begun. */
  interface OpenWatch extends AutoCloseable {
    WatchPage poll(int maxChanges, Duration wait);

    @Override
    void close();
  }

  /** A snapshot that was opened. */
  interface OpenSnapshot extends AutoCloseable {
    byte[] token();

    long version();

    long expiresAtMillis();

    void renew(Duration ttl);

    boolean release();

    @Override
    void close();
  }

  static Driver open(ClientOptions options, boolean async) {
    if (async) {
      PandoAsyncClient client = PandoAsyncClient.connect(options);
      return new Async(client, client);
    }
    PandoClient client = PandoClient.connect(options);
    return new Blocking(client, client);
  }

  /** The blocking client. */
  record Blocking(PandoClient client, KvCommands kv) implements Driver {
    @Override
    public Driver session() {
      return new Blocking(client, client.session());
    }

    @Override
    public ServerInfo serverInfo() {
      return client.serverInfo();
    }

    @Override
    public Scanned scan(KeyRange range, ScanOptions options) {
      try (ScanIterator scan = kv.scan(range, options)) {
        List<Row> rows = new ArrayList<>();
        for (Row row : scan) rows.add(row);
        return new Scanned(rows, scan.pages(), scan.cursor());
      }
    }

    @Override
    public OpenWatch watch(byte[] prefix, WatchOptions options) {
      WatchIterator watch = kv.watch(prefix, options);
      return new OpenWatch() {
        @Override
        public WatchPage poll(int maxChanges, Duration wait) {
          return watch.poll(maxChanges, wait);
        }

        @Override
        public void close() {
          watch.close();
        }
      };
    }

    @Override
    public OpenSnapshot snapshot(Duration ttl, boolean renew) {
      return new BlockingSnapshot(kv.snapshot(ttl, renew));
    }

    @Override
    public void close() {
      client.close();
    }
  }

  /** A snapshot of the blocking client. */
  record BlockingSnapshot(Snapshot snapshot) implements OpenSnapshot {
    @Override
    public byte[] token() {
      return snapshot.token();
    }

    @Override
    public long version() {
      return snapshot.version();
    }

    @Override
    public long expiresAtMillis() {
      return snapshot.expiresAt().toEpochMilli();
    }

    @Override
    public void renew(Duration ttl) {
      snapshot.renew(ttl);
    }

    @Override
    public boolean release() {
      return snapshot.release();
    }

    @Override
    public void close() {
      snapshot.close();
    }
  }

  /** The asynchronous client. */
  record Async(PandoAsyncClient client, KvAsyncCommands async) implements Driver {
    @Override
    public KvCommands kv() {
      return new BlockingOverAsync(async);
    }

    @Override
    public Driver session() {
      return new Async(client, client.session());
    }

    @Override
    public ServerInfo serverInfo() {
      return BlockingOverAsync.join(client.serverInfo());
    }

    @Override
    public Scanned scan(KeyRange range, ScanOptions options) {
      AsyncScan scan = async.scan(range, options);
      List<Row> rows = new ArrayList<>();
      BlockingOverAsync.join(scan.forEach(rows::add));
      return new Scanned(rows, scan.pages(), scan.cursor());
    }

    @Override
    public OpenWatch watch(byte[] prefix, WatchOptions options) {
      AsyncWatch watch = async.watch(prefix, options);
      return new OpenWatch() {
        @Override
        public WatchPage poll(int maxChanges, Duration wait) {
          return BlockingOverAsync.join(watch.poll(maxChanges, wait));
        }

        @Override
        public void close() {}
      };
    }

    @Override
    public OpenSnapshot snapshot(Duration ttl, boolean renew) {
      return new AsyncOpened(BlockingOverAsync.join(async.snapshot(ttl, renew)));
    }

    @Override
    public void close() {
      client.close();
    }
  }

  /** A snapshot of the asynchronous client. */
  record AsyncOpened(AsyncSnapshot snapshot) implements OpenSnapshot {
    @Override
    public byte[] token() {
      return snapshot.token();
    }

    @Override
    public long version() {
      return snapshot.version();
    }

    @Override
    public long expiresAtMillis() {
      return snapshot.expiresAt().toEpochMilli();
    }

    @Override
    public void renew(Duration ttl) {
      BlockingOverAsync.join(snapshot.renew(ttl));
    }

    @Override
    public boolean release() {
      return BlockingOverAsync.join(snapshot.release());
    }

    @Override
    public void close() {
      snapshot.close();
    }
  }
}
