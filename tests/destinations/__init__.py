"""Network shares and sticks: real servers, real filesystems, and what happens when they hang, die or are pulled out."""
