/** What the client uses of the npm package `thrift`, which has no types of its own. */
declare module 'thrift' {
  export const Thrift: {
    Type: { STOP: 0; STRING: 11; STRUCT: 12 };
    MessageType: { CALL: 1; REPLY: 2; EXCEPTION: 3 };
    TApplicationException: new () => { type: number; message: string; read(input: unknown): void };
  };

  /** The parts that src/protocol.ts does not override. */
  export class TBinaryProtocol {
    constructor(transport: unknown, strictRead?: boolean, strictWrite?: boolean);
    readFieldBegin(): { fname: null; ftype: number; fid: number };
    skip(type: number): void;
    writeFieldBegin(name: string, type: number, id: number): void;
    writeFieldStop(): void;
  }
}
