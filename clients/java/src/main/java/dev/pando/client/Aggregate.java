package dev.pando.client;

/**
 * Sums over the records of a range.
 *
 * @param count the number of records
 * @param bytes the total size of keys and values
 * @param contentHash the sum, modulo 2^64, of a hash of each record with its version and expiry; those of disjoint
 *     ranges add up
 */
public record Aggregate(long count, long bytes, long contentHash) {}
