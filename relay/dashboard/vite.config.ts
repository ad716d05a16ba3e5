import { defineConfig } from "vite";

// The relay serves the page under `default-src 'none'; script-src 'self'; style-src 'self'`:
// nothing may be inlined, and everything but index.html lies below /assets.
export default defineConfig({
  build: {
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: false,
    reportCompressedSize: false,
  },
});
