// Not a module: modules are what a browser refuses to load from a file on the disk.
if (location.protocol === "file:") {
  document.addEventListener("DOMContentLoaded", () => {
    const hint = document.createElement("p");
    hint.className = "plain";
    hint.textContent =
      "A browser opens this page only from a web server. In this folder, run: python3 -m http.server 8000 --bind 127.0.0.1, and open http://127.0.0.1:8000/. README.txt says how to put it on the web.";
    document.body.append(hint);
  });
}
