package dev.pando.conformance;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.net.Socket;
import java.nio.charset.StandardCharsets;

/** Asks the control server for what happens to the cluster. Each request has a connection of its own. */
final class Control {
  private final String host;
  private final int port;

  Control(String address) {
    int colon = address.lastIndexOf(':');
    host = address.substring(0, colon);
    port = Integer.parseInt(address.substring(colon + 1));
  }

  JsonObject ask(JsonElement request) {
    try (Socket socket = new Socket(host, port)) {
      OutputStream out = socket.getOutputStream();
      out.write((request + "\n").getBytes(StandardCharsets.UTF_8));
      out.flush();
      String line = new BufferedReader(new InputStreamReader(socket.getInputStream(), StandardCharsets.UTF_8)).readLine();
      if (line == null) throw new BadStep("the control server closed the connection");
      JsonObject answer = JsonParser.parseString(line).getAsJsonObject();
      if (!answer.get("ok").getAsBoolean()) throw new BadStep("the control server says: " + answer.get("error"));
      return answer;
    } catch (IOException e) {
      throw new BadStep("the control server: " + e);
    }
  }

  JsonObject ask(String action) {
    JsonObject request = new JsonObject();
    request.addProperty("action", action);
    return ask(request);
  }
}
