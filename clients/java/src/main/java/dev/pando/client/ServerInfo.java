package dev.pando.client;

import java.util.List;

/**
 * What a server says of itself.
 *
 * @param serverVersion its version
 * @param apiVersion the version of its interface
 * @param clusterId the UUID of the cluster, or of the store of a node that is in none
 * @param features the features that it has
 * @param limits the limits of requests
 */
public record ServerInfo(String serverVersion, int apiVersion, String clusterId, List<String> features,
    Limits limits) {
  /**
   * Limits of requests; 0 = the server does not say.
   *
   * @param maxKeyBytes of a key
   * @param maxValueBytes of a value
   * @param maxBatchOps ops of a batch
   * @param maxBatchBytes keys, values and values of conditions of a batch
   * @param maxMultiGetKeys keys of one multiGet
   * @param maxFrameBytes of a request or reply
   * @param maxScanRows rows of a page
   * @param maxScanBytes of a page
   */
  public record Limits(int maxKeyBytes, int maxValueBytes, int maxBatchOps, int maxBatchBytes, int maxMultiGetKeys,
      int maxFrameBytes, int maxScanRows, int maxScanBytes) {}

  static ServerInfo of(dev.pando.api.HelloReply reply) {
    dev.pando.api.Limits limits = reply.limits == null ? new dev.pando.api.Limits() : reply.limits;
    return new ServerInfo(reply.server_version, reply.api_version, reply.cluster_id,
        reply.features == null ? List.of() : List.copyOf(reply.features),
        new Limits(limits.max_key_bytes, limits.max_value_bytes, limits.max_batch_ops, limits.max_batch_bytes,
            limits.max_multi_get_keys, limits.max_frame_bytes, limits.max_scan_rows, limits.max_scan_bytes));
  }
}
