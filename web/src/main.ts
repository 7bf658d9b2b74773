import { mount } from "svelte";
import "./app.css";
import "./shared.css";
import App from "./App.svelte";
import { theme } from "./state/theme.svelte";

theme.start();
mount(App, { target: document.getElementById("app")! });
