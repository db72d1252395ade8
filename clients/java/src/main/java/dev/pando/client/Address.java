package dev.pando.client;

import java.net.InetSocketAddress;

/** Host and port of a server. The name is looked up with each connection. */
record Address(String host, int port) {
  static Address parse(String text) {
    int colon = text.lastIndexOf(':');
    String host = colon < 0 ? "" : text.substring(0, colon);
    if (host.startsWith("[") && host.endsWith("]")) {
      host = host.substring(1, host.length() - 1);
    } else if (host.contains(":")) {
      host = "";
    }
    try {
      int port = Integer.parseInt(text.substring(colon + 1));
      if (!host.isEmpty() && port > 0 && port < 65536) return new Address(host, port);
    } catch (NumberFormatException e) {
      // Told below.
    }
    throw new IllegalArgumentException("the address \"" + text + "\" is not host:port or [IPv6]:port");
  }

  InetSocketAddress resolve() {
    InetSocketAddress resolved = new InetSocketAddress(host, port);
    if (resolved.isUnresolved()) throw TransportException.notSent("the host " + host + " has no address", null);
    return resolved;
  }

  @Override
  public String toString() {
    return (host.contains(":") ? "[" + host + "]" : host) + ":" + port;
  }
}
