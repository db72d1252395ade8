package dev.pando.conformance;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;

/** The variables of a case, and the values that expressions have with them. Results are byte[], Long, String, ... */
final class Scope {
  private final Map<String, Object> variables;

  Scope() {
    this(new HashMap<>());
  }

  private Scope(Map<String, Object> variables) {
    this.variables = variables;
  }

  /** A copy: what is saved in it is not seen outside. */
  Scope inner() {
    return new Scope(new HashMap<>(variables));
  }

  void set(String name, Object value) {
    variables.put(name, value);
  }

  static boolean isVariable(JsonElement element) {
    return element.isJsonPrimitive() && element.getAsJsonPrimitive().isString() && element.getAsString().startsWith("$");
  }

  Object variable(JsonElement element) {
    String name = element.getAsString().substring(1);
    if (!variables.containsKey(name)) throw new BadStep("there is no variable $" + name);
    return variables.get(name);
  }

  byte[] bytes(JsonElement element) {
    if (isVariable(element)) return asBytes(variable(element));
    if (element.isJsonPrimitive()) return element.getAsString().getBytes(StandardCharsets.UTF_8);
    JsonObject object = element.getAsJsonObject();
    if (object.has("hex")) return HexFormat.of().parseHex(object.get("hex").getAsString());
    if (object.has("utf8")) return object.get("utf8").getAsString().getBytes(StandardCharsets.UTF_8);
    if (object.has("repeat")) {
      return object.get("repeat").getAsString().repeat(object.get("times").getAsInt()).getBytes(StandardCharsets.UTF_8);
    }
    if (!object.has("concat")) throw new BadStep("these are no bytes: " + element);
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    for (JsonElement part : object.getAsJsonArray("concat")) out.writeBytes(bytes(part));
    return out.toByteArray();
  }

  private static byte[] asBytes(Object value) {
    if (value instanceof byte[] bytes) return bytes;
    if (value instanceof Long || value instanceof String) return value.toString().getBytes(StandardCharsets.UTF_8);
    throw new BadStep("the variable has no bytes: " + value);
  }

  long number(JsonElement element) {
    if (isVariable(element)) {
      if (variable(element) instanceof Long number) return number;
      throw new BadStep(element + " is no number");
    }
    if (element.isJsonPrimitive()) return element.getAsLong();
    JsonObject object = element.getAsJsonObject();
    if (object.has("int")) return Long.parseLong(object.get("int").getAsString());
    if (object.has("now_ms")) return System.currentTimeMillis() + object.get("now_ms").getAsLong();
    if (!object.has("plus")) throw new BadStep("this is no number: " + element);
    long sum = 0;
    for (JsonElement part : object.getAsJsonArray("plus")) sum += number(part);
    return sum;
  }

  /** A list of keys. */
  List<byte[]> keys(JsonElement element) {
    List<byte[]> keys = new ArrayList<>();
    if (element.isJsonArray()) {
      for (JsonElement key : element.getAsJsonArray()) keys.add(bytes(key));
      return keys;
    }
    JsonObject numbered = element.getAsJsonObject().getAsJsonObject("numbered");
    long from = numbered.get("from").getAsLong();
    long to = numbered.get("to").getAsLong();
    String format = "%s%0" + numbered.get("digits").getAsInt() + "d";
    for (long i = from; from <= to ? i <= to : i >= to; i += from <= to ? 1 : -1) {
      keys.add(String.format(format, numbered.get("prefix").getAsString(), i).getBytes(StandardCharsets.UTF_8));
    }
    return keys;
  }

  /** A control step as it is sent: variables replaced, the rest as it is. */
  JsonElement replaced(JsonElement element) {
    if (isVariable(element)) return Json.of(variable(element));
    if (element.isJsonArray()) {
      JsonArray array = new JsonArray();
      for (JsonElement item : element.getAsJsonArray()) array.add(replaced(item));
      return array;
    }
    if (!element.isJsonObject()) return element;
    JsonObject object = new JsonObject();
    element.getAsJsonObject().entrySet().forEach(entry -> object.add(entry.getKey(), replaced(entry.getValue())));
    return object;
  }
}
