package dev.pando.conformance;

import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonPrimitive;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Between results (byte[], Long, Boolean, String, List, Map, null) and JSON. */
final class Json {
  private static final int SHOWN_BYTES = 60;

  private Json() {}

  static JsonElement of(Object value) {
    if (value == null) return JsonNull.INSTANCE;
    if (value instanceof Long number) return new JsonPrimitive(number);
    if (value instanceof String text) return new JsonPrimitive(text);
    if (value instanceof Boolean flag) return new JsonPrimitive(flag);
    if (!(value instanceof byte[] bytes)) throw new BadStep("no value for JSON: " + value);
    JsonObject hex = new JsonObject();
    hex.addProperty("hex", HexFormat.of().formatHex(bytes));
    return hex;
  }

  /** An answer of the control server as a result; {"hex": ..} are bytes. */
  static Object result(JsonElement element) {
    if (element.isJsonNull()) return null;
    if (element.isJsonPrimitive()) {
      JsonPrimitive primitive = element.getAsJsonPrimitive();
      if (primitive.isBoolean()) return primitive.getAsBoolean();
      return primitive.isNumber() ? (Object) primitive.getAsLong() : primitive.getAsString();
    }
    if (element.isJsonArray()) {
      List<Object> list = new ArrayList<>();
      for (JsonElement item : element.getAsJsonArray()) list.add(result(item));
      return list;
    }
    JsonObject object = element.getAsJsonObject();
    if (object.size() == 1 && object.has("hex")) return HexFormat.of().parseHex(object.get("hex").getAsString());
    Map<String, Object> map = new LinkedHashMap<>();
    object.entrySet().forEach(entry -> map.put(entry.getKey(), result(entry.getValue())));
    return map;
  }

  /** For messages; long values are cut. */
  static String show(Object value) {
    if (value instanceof byte[] bytes) {
      String text = new String(bytes, java.nio.charset.StandardCharsets.UTF_8);
      return bytes.length <= SHOWN_BYTES ? "\"" + text + "\"" : "(" + bytes.length + " bytes)";
    }
    if (value instanceof List<?> list) {
      List<String> shown = list.stream().limit(10).map(Json::show).toList();
      return shown + (list.size() > 10 ? " of " + list.size() : "");
    }
    if (value instanceof Map<?, ?> map) {
      StringBuilder out = new StringBuilder("{");
      map.forEach((key, item) -> out.append(out.length() > 1 ? ", " : "").append(key).append(": ").append(show(item)));
      return out.append("}").toString();
    }
    return String.valueOf(value);
  }
}
