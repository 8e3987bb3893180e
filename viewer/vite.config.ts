import { defineConfig } from "vite";
import { viteSingleFile } from "vite-plugin-singlefile";

// One file, which ships as data of the Python package.
export default defineConfig({
  plugins: [viteSingleFile({ removeViteModuleLoader: true })],
  build: {
    outDir: "../src/maze/viewer/page",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
  },
});
