document.body.textContent = "placeholder";
