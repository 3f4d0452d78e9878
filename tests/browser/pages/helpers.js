// What the scenarios do in a page, besides calling SuperTokens' libraries.

export function helpers(api) {
  const call = async (path, options = {}) => {
    const response = await fetch(api + path, { credentials: "include", ...options });
    const text = await response.text();
    let body = text;
    try {
      body = JSON.parse(text);
    } catch {
      // Not JSON: the text is the body.
    }
    return { status: response.status, body };
  };

  return {
    call,
    fields: (values) => ({
      formFields: Object.entries(values).map(([id, value]) => ({ id, value })),
    }),
    // The values of the first `count` events, or "error" if the stream doesn't open.
    events: (path, count) =>
      new Promise((resolve) => {
        const source = new EventSource(api + path, { withCredentials: true });
        const data = [];
        source.onmessage = (event) => {
          data.push(event.data);
          if (data.length === count) {
            source.close();
            resolve(data);
          }
        };
        source.onerror = () => {
          source.close();
          resolve("error");
        };
      }),
    // A stream that is left open; `window.closed` is resolved when it ends.
    openEvents: (path) =>
      new Promise((resolve, reject) => {
        const source = new EventSource(api + path, { withCredentials: true });
        source.onmessage = () => resolve();
        window.eventsClosed = new Promise((ended) => {
          source.onerror = () => {
            source.close();
            ended("ended");
            reject(new Error("the stream ended"));
          };
        });
      }),
    // What a WebSocket echoes, or its close code.
    echo: (path, text) =>
      new Promise((resolve) => {
        const socket = new WebSocket(api.replace("http", "ws") + path);
        socket.onopen = () => socket.send(text);
        socket.onmessage = (event) => {
          resolve(event.data);
          socket.close();
        };
        socket.onclose = (event) => resolve(event.code);
      }),
    openSocket: (path) =>
      new Promise((resolve, reject) => {
        const socket = new WebSocket(api.replace("http", "ws") + path);
        socket.onopen = () => resolve();
        window.socketClosed = new Promise((ended) => {
          socket.onclose = (event) => {
            ended(event.code);
            reject(new Error("the socket closed"));
          };
        });
      }),
  };
}
