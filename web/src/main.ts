document.getElementById("app")!.textContent = "pellucid";
